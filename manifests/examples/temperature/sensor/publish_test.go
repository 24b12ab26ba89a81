package main

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// topic accepts each id at its second attempt and refuses one id for good.
type topic struct {
	sync.Mutex
	attempts map[string]int
	bodies   map[string]string
}

func (t *topic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	id := r.Header.Get("ce-id")
	t.Lock()
	defer t.Unlock()
	t.attempts[id]++
	switch {
	case r.Header.Get("ce-type") != "temperature" || id == "run-7":
		w.WriteHeader(http.StatusBadRequest)
	case t.attempts[id] == 1:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		t.bodies[id] = string(body)
		w.WriteHeader(http.StatusAccepted)
	}
}

func TestEveryEventIsSentUntilItIsAcceptedOrRefused(t *testing.T) {
	topic := &topic{attempts: map[string]int{}, bodies: map[string]string{}}
	server := httptest.NewTLSServer(topic)
	defer server.Close()
	authorities := x509.NewCertPool()
	authorities.AddCert(server.Certificate())
	settings := settings{url: server.URL, authorities: authorities, run: "run", count: 20, connections: 4}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if accepted := publishAll(ctx, settings); accepted != 19 {
		t.Errorf("accepted %d, want 19", accepted)
	}
	if topic.attempts["run-7"] != 1 {
		t.Errorf("a refused event was sent %d times", topic.attempts["run-7"])
	}
	if body := topic.bodies["run-5"]; body != `{"type":"temperature","value":23.5}` {
		t.Errorf("body %s", body)
	}
}

func TestEachAttemptHasTheTokenThatIsThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	authorization := func() string {
		request := httptest.NewRequest(http.MethodPost, "/", nil)
		if err := authorize(request, file); err != nil {
			t.Fatal(err)
		}
		return request.Header.Get("Authorization")
	}
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := authorization(); got != "Bearer "+token {
			t.Errorf("%q, want the token %s", got, token)
		}
	}
	if err := authorize(httptest.NewRequest(http.MethodPost, "/", nil), file+".none"); err == nil {
		t.Error("no token, and no error")
	}
}

func TestItGivesUpWhenTheTimeIsOver(t *testing.T) {
	settings := settings{url: "https://127.0.0.1:1", run: "run", count: 3, connections: 2}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if accepted := publishAll(ctx, settings); accepted != 0 {
		t.Errorf("accepted %d by nobody", accepted)
	}
}

func TestRetryAfterIsCapped(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "2": 2 * time.Second, "86400": 30 * time.Second, "-1": 0, "soon": 0,
		"9223372036854775807": 30 * time.Second,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
