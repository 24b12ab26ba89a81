// Printer is an ordinary HTTP program: it prints the id and the body of each request as one line and
// answers 204. It knows nothing of Tidegate; that an event is a POST with a header ce-id is CloudEvents.
//
// Events come over loopback, from the sidecar in the same pod, so it takes them there and nowhere else: on the pod's
// address anybody could post. The kubelet asks for its health at the pod's address, on a port of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// maxBody is more than this example's events have.
const maxBody = 1 << 20

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	health := &http.Server{Addr: ":8081", Handler: healthRoutes(), ReadHeaderTimeout: 5 * time.Second}
	go func() { log.Fatal(health.ListenAndServe()) }()
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: routes(), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-stop.Done()
		// Requests that are being answered get the time for it.
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(end)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", printEvent)
	return mux
}

func healthRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return mux
}

func printEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// One event, one line, whatever is in it; one write, so that lines of concurrent requests do not mix.
	line := strings.Join(strings.Fields(string(body)), " ")
	fmt.Println(r.Header.Get("ce-id") + " " + line)
	w.WriteHeader(http.StatusNoContent)
}
