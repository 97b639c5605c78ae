package main

import (
	"bufio"
	"context"
	"flag"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"interop/pb/exec"
	"interop/pb/ssh"
)

var (
	command = flag.String("cmd", "cat", "exec: the command")
	args    = flag.String("args", "", "exec: its arguments, separated by commas")
	pieces  = flag.Int("pieces", 0, "how many pieces of input to send; -1: without end")
	piece   = flag.Int("piece", 1024, "bytes of each piece")
	close_  = flag.Bool("half-close", false, "end the input after the last piece")
	unread  = flag.Bool("unread", false, "do not read what comes")
)

// duplex is an exec or SSH stream, as bytes.
type duplex struct {
	send      func([]byte) error
	receive   func() (data []byte, exit *int32, err error)
	closeSend func() error
}

func open(ctx context.Context, conn *grpc.ClientConn, kind string) (duplex, error) {
	if kind == "ssh" {
		stream, err := ssh.NewMicroVMSSHProxyClient(conn).SSHProxy(ctx)
		if err != nil {
			return duplex{}, err
		}
		return duplex{
			send: func(data []byte) error {
				return stream.Send(&ssh.SSHProxyRequest{Payload: &ssh.SSHProxyRequest_Data{Data: data}})
			},
			receive: func() ([]byte, *int32, error) {
				reply, err := stream.Recv()
				return reply.GetData(), nil, err
			},
			closeSend: stream.CloseSend,
		}, stream.Send(&ssh.SSHProxyRequest{Payload: &ssh.SSHProxyRequest_Uid{Uid: *uid}})
	}
	stream, err := exec.NewMicroVMExecClient(conn).ExecCommand(ctx)
	if err != nil {
		return duplex{}, err
	}
	start := &exec.ExecStart{Uid: *uid, Cmd: *command, Args: strings.Split(*args, ","), HasStdin: true}
	return duplex{
		send: func(data []byte) error {
			return stream.Send(&exec.ExecCommandRequest{Payload: &exec.ExecCommandRequest_Stdin{Stdin: data}})
		},
		receive: func() ([]byte, *int32, error) {
			reply, err := stream.Recv()
			if code, ends := reply.GetPayload().(*exec.ExecCommandResponse_ExitCode); ends {
				return nil, &code.ExitCode, err
			}
			return reply.GetStdout(), nil, err
		},
		closeSend: stream.CloseSend,
	}, stream.Send(&exec.ExecCommandRequest{Payload: &exec.ExecCommandRequest_Start{Start: start}})
}

// stream runs one stream. Lines on stdin: "cancel" cancels it, "close" closes the connection. It says {"event":
// "blocked"} when a piece does not go out, and at the end how the stream ended.
func stream(ctx context.Context, cancel func(), conn *grpc.ClientConn, kind string) {
	opened, err := open(ctx, conn, kind)
	if err != nil && err != io.EOF {
		ended(err, nil)
		return
	}
	go obey(cancel, conn)
	go input(opened)
	if *unread {
		<-ctx.Done()
	}
	received, exit := 0, (*int32)(nil)
	for {
		data, code, err := opened.receive()
		if err == io.EOF {
			err = nil
		} else if err == nil {
			if code != nil {
				exit = code
			}
			received += len(data)
			continue
		}
		ended(err, map[string]any{"received": received, "exit": exit})
		return
	}
}

func obey(cancel func(), conn *grpc.ClientConn) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "cancel":
			cancel()
		case "close":
			conn.Close()
		}
	}
}

func input(opened duplex) {
	var sent atomic.Int64
	done := make(chan bool)
	go func() {
		for before := int64(-1); ; time.Sleep(500 * time.Millisecond) {
			select {
			case <-done:
				return
			default:
			}
			now := sent.Load()
			if now == before {
				say(map[string]any{"event": "blocked"})
				return
			}
			before = now
		}
	}()
	defer close(done)
	for n := 0; n != *pieces; n++ {
		if opened.send(make([]byte, *piece)) != nil {
			return
		}
		sent.Add(1)
	}
	if *close_ {
		opened.closeSend()
	}
}

// thousand opens a thousand streams on one connection, has an answer on each, and ends them.
func thousand(ctx context.Context, conn *grpc.ClientConn) {
	streams := make([]duplex, *count)
	for n := range streams {
		opened, err := open(ctx, conn, "ssh")
		step("open", err)
		step("send", opened.send([]byte{byte(n)}))
		streams[n] = opened
	}
	for n, opened := range streams {
		data, _, err := opened.receive()
		step("receive", err)
		if len(data) != 1 || data[0] != byte(n) {
			step("receive", io.ErrUnexpectedEOF)
		}
	}
	for _, opened := range streams {
		step("close", opened.closeSend())
		if _, _, err := opened.receive(); err != io.EOF {
			step("end", err)
		}
	}
	ended(nil, map[string]any{"streams": len(streams)})
}
