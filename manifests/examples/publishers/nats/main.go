// Nats publishes temperatures to a topic over NATS, with the identity of the Secret <topic>-publisher-<name>.
//
// An event is a request to the subject that the Secret names, with the attributes as headers (CloudEvents NATS
// binding). The answer is that of a JetStream, so the client library's own publish, with its retries, does all of it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	count, err := strconv.Atoi(os.Getenv("COUNT"))
	if err != nil {
		log.Fatalf("COUNT: %v", err)
	}
	folder := os.Getenv("IDENTITY")
	file := func(name string) string { return filepath.Join(folder, name) }
	url, subject := read(file("url")), read(file("subject"))
	connection, err := nats.Connect(url, nats.Name("example"), nats.UserCredentials(file("user.creds")),
		nats.RootCAs(file("ca.crt")), nats.ClientCert(file("tls.crt"), file("tls.key")),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	stream, err := jetstream.New(connection)
	if err != nil {
		log.Fatal(err)
	}
	for number := range count {
		if err := publish(stream, subject, os.Getenv("RUN")+"-"+strconv.Itoa(number)); err != nil {
			log.Fatalf("event %d: %v", number, err)
		}
	}
	fmt.Printf("published %d\n", count)
}

func publish(stream jetstream.JetStream, subject, id string) error {
	event := nats.NewMsg(subject)
	event.Header = nats.Header{
		"ce-specversion": {"1.0"}, "ce-type": {"temperature"}, "ce-source": {"/examples/nats"}, "ce-id": {id},
		"ce-time": {time.Now().UTC().Format(time.RFC3339Nano)}, "content-type": {"application/json"},
	}
	event.Data = []byte(`{"type":"temperature","value":23.5}`)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The ingress may be away for a moment: no responders, then.
	_, err := stream.PublishMsg(ctx, event, jetstream.WithRetryAttempts(60), jetstream.WithRetryWait(time.Second))
	return err
}

func read(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}
