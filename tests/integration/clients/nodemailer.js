// nodemailer, with a caller that looks at who was refused.
const nodemailer = require("nodemailer");
const [port, from, ...to] = process.argv.slice(2);
const text = require("fs").readFileSync(0, "utf8").split("\n\n").slice(1).join("\n\n");
const client = nodemailer.createTransport({ host: "127.0.0.1", port: Number(port), secure: false });
client.sendMail({ from, to, subject: "a test", text }).then(
  (info) => {
    for (const error of info.rejectedErrors || []) console.log(error.recipient, error.response);
    process.exitCode = info.rejected.length ? 3 : 0;
  },
  (error) => { console.error(error.message); process.exitCode = 1; },
);
