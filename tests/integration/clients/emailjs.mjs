// emailjs, which says RSET at the first refusal.  It sends line ends as they are.
import { readFileSync } from "fs";
import { createRequire } from "module";
const { SMTPClient } = createRequire(import.meta.url)("emailjs");
const [port, from, ...to] = process.argv.slice(2);
const text = readFileSync(0, "utf8").split("\n\n").slice(1).join("\n\n").replace(/\n/g, "\r\n");
const client = new SMTPClient({ host: "127.0.0.1", port: Number(port) });
client.send({ from, to: to.join(", "), subject: "a test", text }, (error) => {
  if (error) { console.error(error.message, String(error.previous || "")); process.exit(1); }
  process.exit(0);
});
