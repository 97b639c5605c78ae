package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"interop/pb/flintlock"
	"interop/pb/types"
)

const (
	bootTime  = 20 * time.Millisecond
	crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

type vm = types.MicroVM

// host is the MicroVM service. A microVM's id can ask for trouble: "slow-DURATION-NAME" is created late, and "detailed" is
// refused with a status that has details.
type host struct {
	flintlock.UnimplementedMicroVMServer
	mu       sync.Mutex
	vms      map[string]*vm
	version  string
	creating atomic.Int32 // slow creates in progress
}

func (h *host) CreateMicroVM(ctx context.Context, in *flintlock.CreateMicroVMRequest) (*flintlock.CreateMicroVMResponse, error) {
	spec := in.GetMicrovm()
	if spec == nil {
		return nil, status.Error(codes.InvalidArgument, "invalid create microvm request: MicroVMSpec required")
	}
	if spec.Id == "detailed" {
		refused, _ := status.New(codes.Unknown, "creating microvm: with details").WithDetails(wrapperspb.String("a detail"))
		return nil, refused.Err()
	}
	if text, slow := strings.CutPrefix(spec.Id, "slow-"); slow {
		text, _, _ = strings.Cut(text, "-")
		wait, _ := time.ParseDuration(text)
		h.creating.Add(1)
		time.Sleep(wait)
		h.creating.Add(-1)
	}
	if spec.Vcpu == 0 {
		spec.Vcpu = 2
	}
	if spec.MemoryInMb == 0 {
		spec.MemoryInMb = 1024
	}
	spec.Labels, spec.Provider, spec.Uid = nil, nil, proto.String(ulid())
	made := &vm{Version: 1, Spec: spec, Status: &types.MicroVMStatus{State: types.MicroVMStatus_PENDING}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[spec.GetUid()] = made
	time.AfterFunc(bootTime, func() { h.booted(made) })
	return &flintlock.CreateMicroVMResponse{Microvm: proto.CloneOf(made)}, nil
}

func (h *host) booted(made *vm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if made.Status.State == types.MicroVMStatus_PENDING {
		made.Version, made.Status.State = made.Version+1, types.MicroVMStatus_CREATED
	}
}

func (h *host) DeleteMicroVM(_ context.Context, in *flintlock.DeleteMicroVMRequest) (*emptypb.Empty, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.vms[in.Uid]
	if found == nil {
		return nil, unknown("deleting microvm: checking to see if spec exists: ", in.Uid)
	}
	found.Version, found.Status.State = found.Version+1, types.MicroVMStatus_DELETING
	time.AfterFunc(bootTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.vms, in.Uid)
	})
	return &emptypb.Empty{}, nil
}

func (h *host) GetMicroVM(_ context.Context, in *flintlock.GetMicroVMRequest) (*flintlock.GetMicroVMResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.vms[in.Uid]
	if found == nil {
		return nil, unknown(fmt.Sprintf("getting microvm: error attempting to locate microvm with uid: %s: ", in.Uid), in.Uid)
	}
	return &flintlock.GetMicroVMResponse{Microvm: proto.CloneOf(found)}, nil
}

func (h *host) ListMicroVMs(_ context.Context, in *flintlock.ListMicroVMsRequest) (*flintlock.ListMicroVMsResponse, error) {
	return &flintlock.ListMicroVMsResponse{Microvm: h.find(in.Namespace, in.GetName())}, nil
}

func (h *host) ListMicroVMsStream(in *flintlock.ListMicroVMsRequest, out grpc.ServerStreamingServer[flintlock.ListMessage]) error {
	for _, found := range h.find(in.Namespace, "") {
		if err := out.Send(&flintlock.ListMessage{Microvm: found}); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) ServerInfo(context.Context, *emptypb.Empty) (*flintlock.ServerInfoResponse, error) {
	return &flintlock.ServerInfoResponse{Version: &flintlock.VersionInfo{Version: h.version}}, nil
}

func (h *host) find(namespace, name string) (found []*vm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.vms {
		if (namespace == "" || namespace == one.Spec.Namespace) && (name == "" || name == one.Spec.Id) {
			found = append(found, proto.CloneOf(one))
		}
	}
	return found
}

func unknown(where, uid string) error {
	return status.Errorf(codes.Unknown, "%smicrovm spec //%s not found", where, uid)
}

func ulid() string {
	letters := []byte("01")
	for range 24 {
		letters = append(letters, crockford[rand.IntN(len(crockford))])
	}
	return string(letters)
}
