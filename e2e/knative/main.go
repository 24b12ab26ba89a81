// Knative resolves an EventTopic as a Knative source does that names it as its sink: with Knative's own resolver and duck
// type, by the API server of KUBECONFIG.
//
// knative NAMESPACE NAME; prints the address that it came to, as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	"knative.dev/pkg/client/injection/ducks/duck/v1/addressable"
	"knative.dev/pkg/injection/clients/dynamicclient"
	"knative.dev/pkg/resolver"
	"knative.dev/pkg/tracker"
)

// patience is how long the API server may take.
const patience = 30 * time.Second

func main() {
	if len(os.Args) != 3 {
		log.Fatal("knative NAMESPACE NAME")
	}
	address, err := resolve(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(address); err != nil {
		log.Fatal(err)
	}
}

func resolve(namespace, name string) (*duckv1.Addressable, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// The informers of addressable objects, as Knative's injection makes them.
	ctx = addressable.WithDuck(context.WithValue(ctx, dynamicclient.Key{}, client))
	tracked := tracker.New(func(types.NamespacedName) {}, patience)
	topics := resolver.NewURIResolverFromTracker(ctx, tracked)
	topic := &duckv1.KReference{APIVersion: "tidegate.io/v1alpha1", Kind: "EventTopic", Namespace: namespace, Name: name}
	// Who asks: any object, as the tracker tells it of changes.
	source := &duckv1.AddressableType{}
	source.SetName("source")
	source.SetNamespace(namespace)
	return topics.AddressableFromDestinationV1(ctx, duckv1.Destination{Ref: topic}, source)
}
