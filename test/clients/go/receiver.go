// Verify webhooks with the official Standard Webhooks library. SECRET is the secret; RAW=1 uses its bytes as the key.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func open(secret string) (*standardwebhooks.Webhook, error) {
	if os.Getenv("RAW") == "1" {
		return standardwebhooks.NewWebhookRaw([]byte(secret))
	}
	return standardwebhooks.NewWebhook(secret)
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var webhook *standardwebhooks.Webhook
			if webhook, err = open(os.Getenv("SECRET")); err == nil {
				err = webhook.Verify(body, r.Header)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, nil))
}
