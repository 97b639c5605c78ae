// testserver serves grpc-go's interop TestService and prints {"grpc": ADDRESS}. SIGTERM ends it gracefully.
package main

import (
	"encoding/json"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(17<<20), grpc.MaxHeaderListSize(128<<10))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	json.NewEncoder(os.Stdout).Encode(map[string]string{"grpc": listener.Addr().String()})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
