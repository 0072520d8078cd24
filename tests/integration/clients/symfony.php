<?php
// Symfony's mailer, which gives up at the first refusal, and makes a new
// Message-ID at each call.
require "Symfony/Component/Mailer/autoload.php";
[, $port, $sender] = $argv;
$mail = (new Symfony\Component\Mime\Email())
    ->from($sender)
    ->to(...array_slice($argv, 3))
    ->subject("a test")
    ->text(explode("\n\n", stream_get_contents(STDIN), 2)[1]);
try {
    Symfony\Component\Mailer\Transport::fromDsn("smtp://127.0.0.1:$port")->send($mail);
} catch (Exception $error) {
    fwrite(STDERR, $error->getMessage());
    exit(1);
}
