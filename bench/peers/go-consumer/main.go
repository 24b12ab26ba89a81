// A consumer as one writes it in Go, with nats.go and net/http and nothing else: it takes the events of a handler, posts
// each to the handler's container and acknowledges it after a success.
//
// It has the rights of a handler's account, which may ask for the next events of its consumer and not for the
// consumer's description, so the pull request is written by hand. That is also the cheapest way there is.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bytes"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

type task struct {
	Servers     []string `json:"servers"`
	Identity    string   `json:"identity"`
	Consumer    string   `json:"consumer"`
	URL         string   `json:"url"`
	Concurrency int      `json:"concurrency"`
}

func main() {
	var work task
	must(json.Unmarshal([]byte(os.Getenv("TIDEGATE_BENCH_TASK")), &work))
	broker := connect(work)
	transport := &http.Transport{MaxIdleConnsPerHost: work.Concurrency}
	client := &http.Client{Transport: transport, Timeout: time.Minute}

	inbox := broker.NewInbox()
	messages := make(chan *nats.Msg, 2*work.Concurrency)
	_, err := broker.ChanSubscribe(inbox, messages)
	must(err)
	next := "$JS.API.CONSUMER.MSG.NEXT.events." + work.Consumer
	ask := func(batch int) {
		request := fmt.Sprintf(`{"batch":%d,"expires":%d}`, batch, 60*time.Second)
		must(broker.PublishRequest(next, inbox, []byte(request)))
	}
	ask(work.Concurrency)

	slots := make(chan struct{}, work.Concurrency)
	open := work.Concurrency
	for message := range messages {
		if message.Reply == "" {
			continue // a status
		}
		if open--; open <= work.Concurrency/2 {
			ask(work.Concurrency - open)
			open = work.Concurrency
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			must(deliver(client, work.URL, message))
			must(message.Respond([]byte("+ACK")))
		}()
	}
}

func connect(work task) *nats.Conn {
	file := func(name string) string { return filepath.Join(work.Identity, name) }
	read := func(name string) []byte {
		content, err := os.ReadFile(file(name))
		must(err)
		return content
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read("ca.crt"))
	certificate, err := tls.LoadX509KeyPair(file("tls.crt"), file("tls.key"))
	must(err)
	jwt := strings.TrimSpace(string(read("user.jwt")))
	seed := bytes.TrimSpace(read("user.seed"))
	sign := func(nonce []byte) ([]byte, error) {
		pair, err := nkeys.FromSeed(seed)
		if err != nil {
			return nil, err
		}
		return pair.Sign(nonce)
	}
	connection, err := nats.Connect(
		strings.Join(work.Servers, ","),
		nats.UserJWT(func() (string, error) { return jwt, nil }, sign),
		nats.Secure(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}),
	)
	must(err)
	return connection
}

// The stored headers and payload as a request, as they are.
func deliver(client *http.Client, url string, message *nats.Msg) error {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(message.Data))
	if err != nil {
		return err
	}
	for name, values := range message.Header {
		for _, value := range values {
			request.Header.Add(name, value)
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("the handler says %s", response.Status)
	}
	return nil
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
