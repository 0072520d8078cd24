-- LuaSocket, which closes the connection at the first refusal.
local smtp = require("socket.smtp")
local recipients = {}
for i = 3, #arg do recipients[#recipients + 1] = "<" .. arg[i] .. ">" end
local text = io.read("a"):gsub("^.-\n\n", "", 1):gsub("\n", "\r\n")
local sent, problem = smtp.send({
  from = "<" .. arg[2] .. ">", rcpt = recipients, server = "127.0.0.1", port = tonumber(arg[1]),
  source = smtp.message({
    headers = { from = arg[2], to = table.concat(recipients, ", "), subject = "a test" },
    body = text,
  }),
})
if not sent then io.stderr:write(problem) os.exit(1) end
