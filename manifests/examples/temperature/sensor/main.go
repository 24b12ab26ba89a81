// Sensor publishes temperatures to a topic: CloudEvents over HTTPS, binary mode, with nothing but HTTP.
//
// An event counts as published when the topic answered 2xx: then it is stored. What was refused for the moment
// (429, 503, no connection) is sent again with the same id, so that it is stored once however often it is sent.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	settings, err := readSettings(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, settings.deadline)
	defer cancel()
	accepted := publishAll(ctx, settings)
	fmt.Printf("published %d\n", accepted)
	if accepted != settings.count {
		log.Fatalf("%d of %d events were not accepted", settings.count-accepted, settings.count)
	}
}

// publishAll publishes all events over a few connections and says how many were accepted.
func publishAll(ctx context.Context, settings settings) int {
	client := newClient(settings)
	numbers := make(chan int)
	var accepted atomic.Int64
	var workers sync.WaitGroup
	for range settings.connections {
		workers.Go(func() {
			for number := range numbers {
				if err := publish(ctx, client, settings, number); err != nil {
					log.Printf("event %d: %v", number, err)
					continue
				}
				accepted.Add(1)
			}
		})
	}
	for number := range settings.count {
		select {
		case numbers <- number:
		case <-ctx.Done():
		}
	}
	close(numbers)
	workers.Wait()
	return int(accepted.Load())
}

// reading is what a sensor would measure: 23.5 °C, give or take.
func reading(number int, at time.Time) event {
	return event{
		number: number,
		time:   at.UTC().Format(time.RFC3339Nano),
		data:   fmt.Sprintf(`{"type":"temperature","value":%.1f}`, 23.5+float64(number%11-5)/10),
	}
}
