// client is a user of Flintlock's API on grpc-go: `client -addr HOST:PORT ACTION [flags]`. It prints JSON, one object a
// line, the last of which has the status of the call.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/wrapperspb" // of details

	"interop/pb/flintlock"
	"interop/pb/types"
)

var (
	addr     = flag.String("addr", "", "HOST:PORT")
	id       = flag.String("id", "vm", "the id of the microVM to create")
	uid      = flag.String("uid", "", "the uid of the microVM")
	count    = flag.Int("count", 1, "creates: how many at once")
	apart    = flag.Bool("apart", false, "creates: a connection for each")
	timeout  = flag.Duration("timeout", 50*time.Second, "deadline of each call")
	gzip     = flag.Bool("gzip", false, "compress requests")
	metaSize = flag.Int("metadata", 0, "bytes of metadata to send, half to come back in headers, half in trailers")
	config   = flag.String("config", "{}", "the service config, in JSON")
	once     = flag.Bool("once", false, "creates: with a request id, the same at each attempt")
	reqSize  = flag.Int("request", 0, "bytes of the create's request, filled up in spec.metadata")
)

func main() {
	flag.Parse()
	options := []grpc.CallOption{grpc.MaxCallSendMsgSize(64 << 20), grpc.MaxCallRecvMsgSize(64 << 20)}
	if *gzip {
		options = append(options, grpc.UseCompressor("gzip"))
	}
	dial := func() *grpc.ClientConn {
		conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(options...), grpc.WithMaxHeaderListSize(256<<10),
			grpc.WithDefaultServiceConfig(*config))
		if err != nil {
			log.Fatal(err)
		}
		return conn
	}
	conn := dial()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	client := flintlock.NewMicroVMClient(conn)
	connect := func() flintlock.MicroVMClient {
		if *apart {
			return flintlock.NewMicroVMClient(dial())
		}
		return client
	}
	switch flag.Arg(0) {
	case "create":
		create(ctx, connect)
	case "load":
		load(ctx, connect)
	case "info":
		info, err := client.ServerInfo(ctx, &emptypb.Empty{})
		ended(err, map[string]any{"version": info.GetVersion().GetVersion()})
	case "life":
		life(ctx, client)
	case "exec", "ssh":
		stream(ctx, cancel, conn, flag.Arg(0))
	case "thousand":
		thousand(ctx, conn)
	default:
		log.Fatalf("no such action: %q", flag.Arg(0))
	}
}

func say(values map[string]any) { json.NewEncoder(os.Stdout).Encode(values) }

// ended says how a call ended.
func ended(err error, more map[string]any) {
	result := status.Convert(err)
	details := []string{}
	for _, detail := range result.Details() {
		details = append(details, fmt.Sprint(detail))
	}
	values := map[string]any{"code": result.Code().String(), "text": result.Message(), "details": details}
	for key, value := range more {
		values[key] = value
	}
	say(values)
}

func spec(name string) *types.MicroVMSpec {
	tap := &types.NetworkInterface{DeviceId: "eth1", Type: types.NetworkInterface_TAP}
	image := &types.VolumeSource{ContainerSource: proto.String("r.example/root:1")}
	return &types.MicroVMSpec{
		Id: name, Namespace: "interop", Vcpu: 1, MemoryInMb: 1024,
		Kernel:     &types.Kernel{Image: "r.example/kernel:1", Filename: proto.String("vmlinux")},
		RootVolume: &types.Volume{Id: "root", Source: image},
		Interfaces: []*types.NetworkInterface{tap},
	}
}

// request has -request bytes, if that is more than a small one has.
func request(name string) *flintlock.CreateMicroVMRequest {
	made := &flintlock.CreateMicroVMRequest{Microvm: spec(name)}
	for missing := *reqSize - proto.Size(made); missing > 0; missing = *reqSize - proto.Size(made) {
		filled := len(made.Microvm.Metadata["filler"])
		made.Microvm.Metadata = map[string]string{"filler": strings.Repeat("f", filled+max(missing/2, 1))}
	}
	return made
}

// create makes -count microVMs at once and says how each call ended.
func create(ctx context.Context, client func() flintlock.MicroVMClient) {
	if given := strings.Repeat("m", *metaSize/2); given != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-head-large", given, "x-tail-large", given)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	for n := range *count {
		all.Go(func() {
			name := *id
			if *count > 1 {
				name = fmt.Sprintf("%s-%d", *id, n)
			}
			ctx := ctx
			if *once {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-billet-request-id", name)
			}
			var header, trailer metadata.MD
			reply, err := client().CreateMicroVM(ctx, request(name),
				grpc.Header(&header), grpc.Trailer(&trailer))
			mu.Lock()
			defer mu.Unlock()
			ended(err, map[string]any{"uid": reply.GetMicrovm().GetSpec().GetUid(),
				"header": size(header, "x-head-large"), "trailer": size(trailer, "x-tail-large")})
		})
	}
	all.Wait()
}

// load has -count workers that create and create, each until a create fails, and says how those failed. It says
// {"event": "loaded"} when each worker has created once.
func load(ctx context.Context, connect func() flintlock.MicroVMClient) {
	var all, first sync.WaitGroup
	var mu sync.Mutex
	first.Add(*count)
	for n := range *count {
		all.Go(func() {
			client := connect()
			for done := 0; ; done++ {
				if done == 1 {
					first.Done()
				}
				name := fmt.Sprintf("%s-%d-%d", *id, n, done)
				_, err := client.CreateMicroVM(ctx, request(name))
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					ended(err, map[string]any{"created": done})
					return
				}
			}
		})
	}
	first.Wait()
	say(map[string]any{"event": "loaded"})
	all.Wait()
}

func size(given metadata.MD, key string) (total int) {
	for _, value := range given.Get(key) {
		total += len(value)
	}
	return total
}

// life makes a microVM, waits until it has booted, finds it in both kinds of list, deletes it and waits until it is gone.
func life(ctx context.Context, client flintlock.MicroVMClient) {
	made, err := client.CreateMicroVM(ctx, &flintlock.CreateMicroVMRequest{Microvm: spec(*id)})
	step("create", err)
	uid := made.Microvm.Spec.GetUid()
	for {
		got, err := client.GetMicroVM(ctx, &flintlock.GetMicroVMRequest{Uid: uid})
		step("get", err)
		if got.Microvm.Status.State == types.MicroVMStatus_CREATED {
			text, _ := protojson.Marshal(got.Microvm.Spec)
			say(map[string]any{"spec": json.RawMessage(text)})
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	listed, err := client.ListMicroVMs(ctx, &flintlock.ListMicroVMsRequest{Namespace: "interop", Name: id})
	step("list", err)
	streamed, err := client.ListMicroVMsStream(ctx, &flintlock.ListMicroVMsRequest{Namespace: "interop"})
	step("list stream", err)
	first, err := streamed.Recv()
	step("list stream", err)
	say(map[string]any{"listed": len(listed.Microvm), "streamed": first.Microvm.Spec.GetUid() != ""})
	_, err = client.DeleteMicroVM(ctx, &flintlock.DeleteMicroVMRequest{Uid: uid})
	step("delete", err)
	for err == nil {
		_, err = client.GetMicroVM(ctx, &flintlock.GetMicroVMRequest{Uid: uid})
		time.Sleep(10 * time.Millisecond)
	}
	ended(err, nil)
}

func step(name string, err error) {
	if err != nil {
		ended(fmt.Errorf("%s: %w", name, err), nil)
		os.Exit(1)
	}
}
