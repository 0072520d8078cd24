# Ruby's Net::SMTP, with a caller that keeps the message.
require "net/smtp"
port, sender, *recipients = ARGV
begin
  Net::SMTP.start("127.0.0.1", port.to_i, helo: "client.test") do |client|
    client.send_message(STDIN.read, sender, *recipients)
  end
rescue StandardError => error
  abort error.message
end
