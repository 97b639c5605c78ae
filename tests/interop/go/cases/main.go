// cases runs one interop case as a client and prints {"case": NAME, "ok": true}. A failed case ends with exit code 1
// and its reason on stderr: grpc-go's own cases end the process where they fail.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

type testCase func(context.Context, *grpc.ClientConn)

// ofService adapts one of grpc-go's cases.
func ofService(run func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) testCase {
	return func(ctx context.Context, conn *grpc.ClientConn) { run(ctx, testgrpc.NewTestServiceClient(conn)) }
}

var cases = map[string]testCase{
	"empty_unary":                 ofService(interop.DoEmptyUnaryCall),
	"large_unary":                 ofService(interop.DoLargeUnaryCall),
	"client_streaming":            ofService(interop.DoClientStreaming),
	"server_streaming":            ofService(interop.DoServerStreaming),
	"ping_pong":                   ofService(interop.DoPingPong),
	"empty_stream":                ofService(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  ofService(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          ofService(interop.DoCancelAfterBegin),
	"cancel_after_first_response": ofService(interop.DoCancelAfterFirstResponse),
	"status_code_and_message":     ofService(interop.DoStatusCodeAndMessage),
	"special_status_message":      ofService(interop.DoSpecialStatusMessage),
	"custom_metadata":             ofService(interop.DoCustomMetadata),
	"unimplemented_method":        interop.DoUnimplementedMethod,
	"unimplemented_service": func(ctx context.Context, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	},
	"large_metadata":   largeMetadata,
	"large_messages":   largeMessages,
	"gzip":             gzipped,
	"thousand_streams": thousandStreams,
	"slow_reader":      slowReader,
	"drain":            drain,
}

func main() {
	addr := flag.String("addr", "", "HOST:PORT of the server")
	name := flag.String("case", "", "which case")
	flag.Parse()
	run, known := cases[*name]
	if !known {
		log.Fatalf("no such case: %q", *name)
	}
	size := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largeMessage+1024), grpc.MaxCallSendMsgSize(largeMessage+1024))
	conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(insecure.NewCredentials()), size)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	run(ctx, conn)
	json.NewEncoder(os.Stdout).Encode(map[string]any{"case": *name, "ok": true})
}
