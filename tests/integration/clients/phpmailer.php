<?php
// PHPMailer, which goes on when one is refused, and then says that it failed.
require "libphp-phpmailer/autoload.php";
[, $port, $sender] = $argv;
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = "127.0.0.1";
$mail->Port = (int) $port;
$mail->SMTPAutoTLS = false;
$mail->setFrom($sender);
foreach (array_slice($argv, 3) as $recipient) {
    $mail->addAddress($recipient);
}
$mail->Subject = "a test";
$mail->Body = explode("\n\n", stream_get_contents(STDIN), 2)[1];
try {
    $mail->send();
} catch (Exception $error) {
    fwrite(STDERR, $mail->ErrorInfo);
    exit(1);
}
