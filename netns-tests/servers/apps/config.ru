# A Rack application: / answers at once, /slow after 2 s.
run lambda { |env|
  sleep 2 if env["PATH_INFO"] == "/slow"
  [200, { "Content-Type" => "text/plain", "Content-Length" => "6" }, ["hello\n"]]
}
