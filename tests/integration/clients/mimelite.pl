# MIME::Lite, which makes no Message-ID.  It ends a text that ends with a line end
# with CR CR LF.
use strict;
use warnings;
use MIME::Lite;
my ($port, $sender, @recipients) = @ARGV;
my $text = join "", <STDIN>;
$text =~ s/.*?\n\n//s;
chomp $text;
my $mail = MIME::Lite->new(From => $sender, To => join(", ", @recipients), Subject => "a test",
    Data => $text);
eval { $mail->send("smtp", "127.0.0.1", Port => $port, Hello => "client.test"); 1 }
    or do { print STDERR $@; exit 1 };
