// A net/http server: / answers at once, /slow after 2 s. With the argument "graceful" it handles SIGTERM as
// an application should: each answer says that it is the last one of its connection, for 3 s; then Shutdown.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return net.FileListener(os.NewFile(3, "listener"))
	}
	return net.Listen("tcp4", ":"+os.Getenv("PORT"))
}

func main() {
	var ends atomic.Bool
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(2 * time.Second)
		}
		if ends.Load() {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintln(w, "hello")
	}
	listener, err := listen()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := &http.Server{Handler: http.HandlerFunc(handler)}
	done := make(chan struct{})
	if len(os.Args) > 1 && os.Args[1] == "graceful" {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		go func() {
			<-signals
			ends.Store(true)
			time.Sleep(3 * time.Second)
			server.Shutdown(context.Background())
			close(done)
		}()
	}
	if err := server.Serve(listener); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-done
}
