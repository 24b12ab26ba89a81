package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"time"
)

type settings struct {
	url         string         // the topic's address
	authorities *x509.CertPool // who may have signed its certificate
	tokenFile   string         // the token that says who publishes; none if empty
	run         string         // makes the ids of this run's events unique
	count       int            // how many events
	connections int            // how many at once
	deadline    time.Duration  // for all of them
}

func readSettings(env func(string) string) (settings, error) {
	read := settings{url: env("URL"), run: env("RUN"), tokenFile: env("TOKEN_FILE")}
	if read.url == "" {
		return read, fmt.Errorf("URL is not set: the topic's address, such as https://temperature-topic.default.svc")
	}
	if read.run == "" {
		read.run = strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	var err error
	if read.count, err = number(env("COUNT"), 1000); err != nil {
		return read, fmt.Errorf("COUNT: %w", err)
	}
	if read.connections, err = number(env("CONNECTIONS"), 8); err != nil {
		return read, fmt.Errorf("CONNECTIONS: %w", err)
	}
	seconds, err := number(env("DEADLINE_SECONDS"), 300)
	if err != nil {
		return read, fmt.Errorf("DEADLINE_SECONDS: %w", err)
	}
	read.deadline = time.Duration(seconds) * time.Second
	read.authorities, err = authorities(env("CA_FILE"))
	return read, err
}

func number(text string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	value, err := strconv.Atoi(text)
	if err == nil && value < 1 {
		err = fmt.Errorf("%d is not a number above zero", value)
	}
	return value, err
}

func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // those of the system
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA_FILE: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA_FILE: no certificate in %s", file)
	}
	return pool, nil
}
