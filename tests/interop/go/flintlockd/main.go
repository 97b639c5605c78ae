// flintlockd is a Flintlock host on grpc-go for tests: microVMs in memory, exec and SSH streams, ServerInfo, reflection.
// It prints {"grpc": ADDRESS, "control": ADDRESS}. GET /streams on the second says what became of each stream,
// and GET /creating how many slow creates are in progress.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"interop/pb/exec"
	"interop/pb/flintlock"
	"interop/pb/ssh"
)

func main() {
	address := flag.String("grpc", "127.0.0.1:0", "HOST:PORT to listen on")
	version := flag.String("version", "0.15.2", "the version that ServerInfo tells")
	flag.Parse()
	listener, control := listen(*address), listen("127.0.0.1:0")
	host := &host{vms: map[string]*vm{}, version: *version}
	guests := &guests{host: host}
	server := grpc.NewServer(grpc.MaxHeaderListSize(256<<10), grpc.UnaryInterceptor(echoUnary), grpc.StreamInterceptor(echoStream))
	flintlock.RegisterMicroVMServer(server, host)
	exec.RegisterMicroVMExecServer(server, guests)
	ssh.RegisterMicroVMSSHProxyServer(server, sshProxy{guests: guests})
	reflection.Register(server)
	http.HandleFunc("/streams", guests.tell)
	http.HandleFunc("/creating", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(host.creating.Load()) })
	go http.Serve(control, nil)
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"grpc": listener.Addr().String(), "control": control.Addr().String()})
	log.Fatal(server.Serve(listener))
}

func listen(address string) net.Listener {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

// echoed are a call's metadata to send back: keys that begin with "x-head-" in the header, with "x-tail-" in the trailer.
func echoed(ctx context.Context) (header, trailer metadata.MD) {
	header, trailer = metadata.MD{}, metadata.MD{}
	given, _ := metadata.FromIncomingContext(ctx)
	for key, values := range given {
		if strings.HasPrefix(key, "x-head-") {
			header[key] = values
		}
		if strings.HasPrefix(key, "x-tail-") {
			trailer[key] = values
		}
	}
	return header, trailer
}

func echoUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	header, trailer := echoed(ctx)
	grpc.SetHeader(ctx, header)
	grpc.SetTrailer(ctx, trailer)
	return handle(ctx, request)
}

func echoStream(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	header, trailer := echoed(stream.Context())
	stream.SetHeader(header)
	stream.SetTrailer(trailer)
	return handle(service, stream)
}
