// Mqtt publishes temperatures to a topic over MQTT 3.1.1, as a device would, with the Eclipse Paho client.
//
// MQTT 3.1.1 has no place for attributes beside the data, so each payload is a whole CloudEvent in JSON. With QoS 1 the
// topic answers only when the event is stored; what is not answered, the client sends again after it has reconnected,
// and the event's id makes that harmless.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const patience = 60 * time.Second

func main() {
	count, err := strconv.Atoi(os.Getenv("COUNT"))
	if err != nil {
		log.Fatalf("COUNT: %v", err)
	}
	client, err := connect(os.Getenv("URL"), os.Getenv("CA_FILE"), os.Getenv("TOKEN_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Disconnect(250)
	for number := range count {
		if err := publish(client, os.Getenv("RUN"), number); err != nil {
			log.Fatalf("event %d: %v", number, err)
		}
	}
	fmt.Printf("published %d\n", count)
}

// token is the password of each connection: a ServiceAccount's, which the kubelet renews. The user name means nothing.
func token(file string) (string, string) {
	token, err := os.ReadFile(file)
	if err != nil {
		log.Printf("TOKEN_FILE: %v", err)
	}
	return "token", strings.TrimSpace(string(token))
}

func connect(url, caFile, tokenFile string) (mqtt.Client, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", caFile)
	}
	options := mqtt.NewClientOptions().AddBroker(url).SetClientID("example").
		SetTLSConfig(&tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12}).
		SetCredentialsProvider(func() (string, string) { return token(tokenFile) }).
		SetConnectRetry(true).SetConnectRetryInterval(time.Second)
	client := mqtt.NewClient(options)
	return client, wait(client.Connect())
}

func publish(client mqtt.Client, run string, number int) error {
	event, err := json.Marshal(map[string]any{
		"specversion": "1.0", "type": "temperature", "source": "/examples/mqtt",
		"id": run + "-" + strconv.Itoa(number), "time": time.Now().UTC().Format(time.RFC3339Nano),
		"datacontenttype": "application/json",
		"data":            map[string]any{"type": "temperature", "value": 23.5},
	})
	if err != nil {
		return err
	}
	// The name of the MQTT topic has no meaning: the address is one EventTopic's.
	return wait(client.Publish("events", 1, false, event))
}

func wait(token mqtt.Token) error {
	if !token.WaitTimeout(patience) {
		return fmt.Errorf("no answer within %v", patience)
	}
	return token.Error()
}
