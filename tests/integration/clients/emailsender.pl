# Email::Sender, which gives up at the first refusal unless partial success is allowed.
use strict;
use warnings;
use Email::Sender::Simple qw(sendmail);
use Email::Sender::Transport::SMTP;
my ($port, $sender, @recipients) = @ARGV;
my $transport = Email::Sender::Transport::SMTP->new({ host => "127.0.0.1", port => $port });
eval { sendmail(join("", <STDIN>), { from => $sender, to => \@recipients,
    transport => $transport }); 1 } or do { print STDERR $@->message; exit 1 };
