package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"interop/pb/exec"
	"interop/pb/ssh"
)

const pieceSize = 32 << 10

// account is what became of one stream: Input is how far the client's side of it has come, Ended whether the handler
// has returned, Cancelled whether the call was cancelled by then, and Error what the handler returned.
type account struct {
	Uid, Command, Input string
	Received, Sent      int
	Ended, Cancelled    bool
	Error               string
}

const (
	open       = "open"
	halfClosed = "half-closed"
	broken     = "broken"
)

// guests are the exec and SSH streams of all microVMs, in the order in which they came.
type guests struct {
	exec.UnimplementedMicroVMExecServer
	host     *host
	mu       sync.Mutex
	accounts []*account
}

type sshProxy struct {
	ssh.UnimplementedMicroVMSSHProxyServer
	guests *guests
}

// guest is one stream as its command sees it: read returns io.EOF at the end of input.
type guest struct {
	context.Context
	read    func() ([]byte, error)
	write   func([]byte) error
	note    func(func(*account))
	command string
	limit   int
}

func (g *guests) tell(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	json.NewEncoder(w).Encode(g.accounts)
}

// begin checks the uid and opens the account of a stream.
func (g *guests) begin(ctx context.Context, uid, command string) (*guest, error) {
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	if g.host.vms[uid] == nil {
		return nil, unknown("getting microvm: ", uid)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	opened := &account{Uid: uid, Command: command, Input: open}
	g.accounts = append(g.accounts, opened)
	note := func(change func(*account)) {
		g.mu.Lock()
		defer g.mu.Unlock()
		change(opened)
	}
	return &guest{Context: ctx, note: note, command: command}, nil
}

func (g *guests) ExecCommand(stream grpc.BidiStreamingServer[exec.ExecCommandRequest, exec.ExecCommandResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	guest, err := g.begin(stream.Context(), start.GetUid(), start.GetCmd())
	if err != nil {
		return err
	}
	if len(start.GetArgs()) > 0 {
		guest.limit, _ = strconv.Atoi(start.Args[0])
	}
	guest.read = func() ([]byte, error) {
		request, err := stream.Recv()
		if err == nil && request.GetStdinEof() {
			return nil, io.EOF
		}
		return request.GetStdin(), err
	}
	guest.write = func(data []byte) error {
		return stream.Send(&exec.ExecCommandResponse{Payload: &exec.ExecCommandResponse_Stdout{Stdout: data}})
	}
	code, err := guest.run()
	if err != nil {
		return err
	}
	return stream.Send(&exec.ExecCommandResponse{Payload: &exec.ExecCommandResponse_ExitCode{ExitCode: code}})
}

func (s sshProxy) SSHProxy(stream grpc.BidiStreamingServer[ssh.SSHProxyRequest, ssh.SSHProxyResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	guest, err := s.guests.begin(stream.Context(), first.GetUid(), "cat")
	if err != nil {
		return err
	}
	guest.read = func() ([]byte, error) {
		request, err := stream.Recv()
		return request.GetData(), err
	}
	guest.write = func(data []byte) error { return stream.Send(&ssh.SSHProxyResponse{Data: data}) }
	_, err = guest.run()
	return err
}

// run carries out the guest's command; its exit code.
func (g *guest) run() (code int32, err error) {
	defer func() {
		told := status.Code(err) // a write may say it a moment before the context does
		cancelled := g.Err() != nil || told == codes.Canceled || told == codes.DeadlineExceeded
		g.note(func(a *account) { a.Ended, a.Cancelled, a.Error = true, cancelled, fmt.Sprint(err) })
	}()
	switch g.command {
	case "cat": // sends back what it reads
		return 0, g.input(g.output)
	case "count": // reads all, then says how much
		received := 0
		if err := g.input(func(data []byte) error { received += len(data); return nil }); err != nil {
			return 1, err
		}
		return 0, g.output([]byte(strconv.Itoa(received)))
	case "head": // ends as soon as it has read so many bytes, with exit code 7
		left := g.limit
		err := g.input(func(data []byte) error {
			if left -= len(data); left <= 0 {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			err = nil
		}
		return 7, err
	case "yes": // writes for ever, whatever it gets
		return 0, g.flood(make([]byte, pieceSize))
	case "late": // writes for ever after the end of its input
		if err := g.input(func([]byte) error { return nil }); err != nil {
			return 1, err
		}
		return 0, g.flood(make([]byte, pieceSize))
	case "print": // writes so many bytes and ends, without a look at its input
		return 0, g.output(bytes.Repeat([]byte{'p'}, g.limit))
	case "fail": // ends with a status of its own
		return 0, status.Error(codes.ResourceExhausted, "the guest is out of files: \t%é☺")
	default: // "sleep" neither reads nor writes
		<-g.Done()
		return 0, g.Err()
	}
}

var errEnough = errors.New("enough")

// input gives all input to take; nil at its end.
func (g *guest) input(take func([]byte) error) error {
	for {
		data, err := g.read()
		if err == io.EOF {
			g.note(func(a *account) { a.Input = halfClosed })
			return nil
		}
		if err != nil {
			g.note(func(a *account) { a.Input = broken })
			return err
		}
		g.note(func(a *account) { a.Received += len(data) })
		if err := take(data); err != nil {
			return err
		}
	}
}

func (g *guest) output(data []byte) error {
	for piece := range bytesIn(data) {
		if err := g.write(piece); err != nil {
			return err
		}
		g.note(func(a *account) { a.Sent += len(piece) })
	}
	return nil
}

func (g *guest) flood(piece []byte) error {
	for {
		if err := g.output(piece); err != nil {
			return err
		}
	}
}

func bytesIn(data []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 && yield(data[:min(pieceSize, len(data))]) {
			data = data[min(pieceSize, len(data)):]
		}
	}
}
