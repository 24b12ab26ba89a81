package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	firstWait   = 200 * time.Millisecond
	longestWait = 10 * time.Second
	oneAttempt  = 15 * time.Second
)

type event struct {
	number int
	time   string
	data   string
}

func newClient(settings settings) *http.Client {
	return &http.Client{
		Timeout: oneAttempt,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: settings.authorities, MinVersion: tls.VersionTLS12},
			MaxConnsPerHost:     settings.connections,
			MaxIdleConnsPerHost: settings.connections,
			IdleConnTimeout:     time.Minute,
		},
	}
}

// refused is an answer that will not become another one.
type refused struct{ reason string }

func (r refused) Error() string { return r.reason }

// publish sends one event until it is accepted, refused for good, or the context ends.
func publish(ctx context.Context, client *http.Client, settings settings, number int) error {
	event := reading(number, time.Now())
	wait := firstWait
	for {
		after, err := attempt(ctx, client, settings, event)
		if err == nil || errors.As(err, new(refused)) {
			return err
		}
		// Between half and all of the wait, so that connections do not retry in step.
		pause := max(wait/2+rand.N(wait/2+1), after)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("gave up: %w", err)
		}
		wait = min(2*wait, longestWait)
	}
}

// attempt sends an event once. An error with a duration says how long the topic asked to wait.
func attempt(ctx context.Context, client *http.Client, settings settings, event event) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, settings.url, strings.NewReader(event.data))
	if err != nil {
		return 0, refused{err.Error()}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("ce-specversion", "1.0")
	request.Header.Set("ce-type", "temperature")
	request.Header.Set("ce-source", "/examples/sensor")
	request.Header.Set("ce-id", settings.run+"-"+strconv.Itoa(event.number))
	request.Header.Set("ce-time", event.time)
	if err := authorize(request, settings.tokenFile); err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	// Read to its end, so that the connection can be used again.
	reason, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	return judge(response, strings.TrimSpace(string(reason)))
}

// authorize adds the token. It is read for each attempt: the kubelet replaces it long before it ends.
func authorize(request *http.Request, file string) error {
	if file == "" {
		return nil
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return nil
}

func judge(response *http.Response, reason string) (time.Duration, error) {
	status := response.StatusCode
	switch {
	case status >= 200 && status < 300:
		return 0, nil
	case status == http.StatusTooManyRequests || status >= 500:
		return retryAfter(response.Header), fmt.Errorf("%s: %s", response.Status, reason)
	default:
		return 0, refused{fmt.Sprintf("%s: %s", response.Status, reason)}
	}
}

// retryAfter is the wait the topic asked for, at most half a minute; none where it did not.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, 30*time.Second)
}
