package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const largeMessage = 16 << 20

// largeMetadata: 60 KiB of metadata reach the server and come back, as headers and as binary trailers.
func largeMetadata(ctx context.Context, conn *grpc.ClientConn) {
	value := strings.Repeat("m", 30<<10)
	ctx = metadata.AppendToOutgoingContext(ctx, "x-grpc-test-echo-initial", value, "x-grpc-test-echo-trailing-bin", value[:20<<10])
	var header, trailer metadata.MD
	_, err := testgrpc.NewTestServiceClient(conn).UnaryCall(
		ctx, &testgrpc.SimpleRequest{ResponseSize: 1}, grpc.Header(&header), grpc.Trailer(&trailer))
	must(err)
	if got := header.Get("x-grpc-test-echo-initial"); len(got) != 1 || got[0] != value {
		log.Fatalf("the header did not come back whole")
	}
	if got := trailer.Get("x-grpc-test-echo-trailing-bin"); len(got) != 1 || got[0] != value[:20<<10] {
		log.Fatalf("the trailer did not come back whole")
	}
}

// largeMessages: 16 MiB each way in one call, and then in one stream.
func largeMessages(ctx context.Context, conn *grpc.ClientConn) {
	client := testgrpc.NewTestServiceClient(conn)
	payload := &testgrpc.Payload{Body: make([]byte, largeMessage-64)}
	reply, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: largeMessage - 64, Payload: payload})
	must(err)
	expect(len(reply.Payload.Body), largeMessage-64)
	stream, err := client.FullDuplexCall(ctx)
	must(err)
	parameters := []*testgrpc.ResponseParameters{{Size: largeMessage - 64}}
	must(stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload, ResponseParameters: parameters}))
	message, err := stream.Recv()
	must(err)
	expect(len(message.Payload.Body), largeMessage-64)
	must(stream.CloseSend())
	_, err = stream.Recv()
	expect(err, io.EOF)
}

// gzipped: the server reads compressed messages, and this client whatever it answers.
func gzipped(ctx context.Context, conn *grpc.ClientConn) {
	client := testgrpc.NewTestServiceClient(conn)
	payload := &testgrpc.Payload{Body: make([]byte, 1<<20)}
	request := &testgrpc.SimpleRequest{ResponseSize: 1 << 20, Payload: payload}
	reply, err := client.UnaryCall(ctx, request, grpc.UseCompressor("gzip"))
	must(err)
	expect(len(reply.Payload.Body), 1<<20)
	stream, err := client.StreamingInputCall(ctx, grpc.UseCompressor("gzip"))
	must(err)
	for range 10 {
		must(stream.Send(&testgrpc.StreamingInputCallRequest{Payload: payload}))
	}
	sum, err := stream.CloseAndRecv()
	must(err)
	expect(sum.AggregatedPayloadSize, int32(10<<20))
}

// thousandStreams: all open on one connection at the same time, each with an answer, before the first one ends.
func thousandStreams(ctx context.Context, conn *grpc.ClientConn) {
	client := testgrpc.NewTestServiceClient(conn)
	streams := make([]testgrpc.TestService_FullDuplexCallClient, 1000)
	var all sync.WaitGroup
	for n := range streams {
		stream, err := client.FullDuplexCall(ctx)
		must(err)
		streams[n] = stream
		all.Go(func() {
			parameters := []*testgrpc.ResponseParameters{{Size: int32(n)}}
			must(stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: parameters}))
			message, err := stream.Recv()
			must(err)
			expect(len(message.Payload.GetBody()), n)
		})
	}
	all.Wait()
	for _, stream := range streams {
		must(stream.CloseSend())
		_, err := stream.Recv()
		expect(err, io.EOF)
	}
}

// slowReader: one stream whose replies nobody reads does not hold up the others on its connection.
func slowReader(ctx context.Context, conn *grpc.ClientConn) {
	client := testgrpc.NewTestServiceClient(conn)
	parameters := make([]*testgrpc.ResponseParameters, 64)
	for n := range parameters {
		parameters[n] = &testgrpc.ResponseParameters{Size: 1 << 20}
	}
	unread, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: parameters})
	must(err)
	_, err = unread.Recv()
	must(err)
	for range 100 {
		_, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 1000})
		must(err)
	}
	for range parameters[1:] {
		_, err := unread.Recv()
		must(err)
	}
	_, err = unread.Recv()
	expect(err, io.EOF)
}

// drain: says so when a call and a stream are in flight, and waits until the server has been told to stop. Both end
// well, and a call that is made later is UNAVAILABLE.
func drain(ctx context.Context, conn *grpc.ClientConn) {
	client := testgrpc.NewTestServiceClient(conn)
	slow := []*testgrpc.ResponseParameters{{Size: 1}, {Size: 1, IntervalUs: 2_000_000}}
	short, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: slow})
	must(err)
	duplex, err := client.FullDuplexCall(ctx)
	must(err)
	_, err = short.Header()
	must(err)
	echo(duplex, 1)
	fmt.Println(`{"event": "in flight"}`)
	bufio.NewReader(os.Stdin).ReadString('\n')
	for range slow {
		_, err := short.Recv()
		must(err)
	}
	_, err = short.Recv()
	expect(err, io.EOF)
	echo(duplex, 2)
	must(duplex.CloseSend())
	_, err = duplex.Recv()
	expect(err, io.EOF)
	for ctx.Err() == nil {
		if _, err = client.EmptyCall(ctx, &testgrpc.Empty{}); err != nil {
			expect(status.Code(err), codes.Unavailable)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	log.Fatal("the server went on")
}

func echo(stream testgrpc.TestService_FullDuplexCallClient, size int32) {
	parameters := []*testgrpc.ResponseParameters{{Size: size}}
	must(stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: parameters}))
	_, err := stream.Recv()
	must(err)
}

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func expect(got, want any) {
	if got != want {
		log.Output(2, fmt.Sprintf("got %v, want %v", got, want))
		os.Exit(1)
	}
}
