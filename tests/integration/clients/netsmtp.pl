# Perl's Net::SMTP, with a caller that keeps the message.
use strict;
use warnings;
use Net::SMTP;
my ($port, $sender, @recipients) = @ARGV;
my $client = Net::SMTP->new("127.0.0.1", Port => $port, Hello => "client.test") or die $@;
my $text = join "", <STDIN>;
$client->mail($sender) && $client->to(@recipients) && $client->data($text)
    or do { print STDERR $client->code, " ", $client->message; $client->quit; exit 1 };
$client->quit;
