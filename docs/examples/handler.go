// A handler with Go's standard library: one POST for each event.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
)

func handle(w http.ResponseWriter, r *http.Request) {
	// Attributes in headers are percent-encoded.
	subject, err := url.PathUnescape(r.Header.Get("ce-subject"))
	var data any
	if err == nil {
		err = json.NewDecoder(r.Body).Decode(&data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest) // The event will never be right: a dead letter.
		return
	}
	// Do the work here. The same event (source and id) may come twice.
	text, _ := json.Marshal(data)
	fmt.Println("handled", r.Header.Get("ce-id"), subject, string(text))
	w.WriteHeader(http.StatusNoContent)
}

func main() {
	// The pod is drained before this signal comes, so nothing is under way.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	address := "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8080")
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(handle)))
}
