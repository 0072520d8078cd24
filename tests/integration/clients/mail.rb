# Ruby's mail, which makes a new Message-ID at each call.
require "mail"
port, sender, *recipients = ARGV
mail = Mail.new(from: sender, to: recipients, subject: "a test",
                body: STDIN.read.partition("\n\n").last)
mail.delivery_method :smtp, address: "127.0.0.1", port: port.to_i, enable_starttls_auto: false
begin
  mail.deliver!
rescue StandardError => error
  abort error.message
end
