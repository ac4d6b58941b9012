# Says which worker answers.
run lambda { |env|
  body = "#{Process.pid} 0 0\n"
  [200, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
}
