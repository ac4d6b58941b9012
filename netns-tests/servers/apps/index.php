<?php // Answers at once, and /slow after 2 s.
if (strtok($_SERVER["REQUEST_URI"], "?") === "/slow") {
    $end = microtime(true) + 2;
    while (($rest = $end - microtime(true)) > 0) {
        usleep((int) ($rest * 1e6)); // A signal cuts it short.
    }
}
header("Content-Type: text/plain");
header("Content-Length: 6");
echo "hello\n";
