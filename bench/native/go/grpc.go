package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"isthmus-bench/proto"
)

//go:generate sh -c "cd ../../.. && npx --yes --package @bufbuild/buf@1.75.0 buf generate --template bench/native/go/buf.gen.yaml --path bench/proto/bench.proto"

const echoMethod = "/isthmus.bench.EchoService/Echo"

type grpcSettings struct {
	server []grpc.ServerOption
	client []grpc.DialOption
}

var grpcDefaults = grpcSettings{}

func grpcSettingsOf(peer string) grpcSettings {
	if peer == "grpc-go-tuned" {
		return grpcTuned
	}
	return grpcDefaults
}

const (
	windowBytes = 16 << 20
	bufferBytes = 256 << 10
)

// Windows and buffers that no message fills, and goroutines that are kept. Compression is off by default.
var grpcTuned = grpcSettings{
	server: []grpc.ServerOption{
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.ReadBufferSize(bufferBytes),
		grpc.WriteBufferSize(bufferBytes),
		grpc.NumStreamWorkers(lanesMax),
	},
	client: []grpc.DialOption{
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithReadBufferSize(bufferBytes),
		grpc.WithWriteBufferSize(bufferBytes),
	},
}

type echoServer interface {
	echo(ctx context.Context, request *proto.Payload) (*proto.Payload, error)
}

type echo struct{ wait time.Duration }

func (e echo) echo(_ context.Context, request *proto.Payload) (*proto.Payload, error) {
	reply := &proto.Payload{Id: request.Id, Data: answer(uint32(request.Id), request.Data)}
	if e.wait > 0 {
		time.Sleep(e.wait)
	}
	return reply, nil
}

var echoService = grpc.ServiceDesc{
	ServiceName: "isthmus.bench.EchoService",
	HandlerType: (*echoServer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := new(proto.Payload)
			if err := decode(request); err != nil {
				return nil, err
			}
			return server.(echoServer).echo(ctx, request)
		},
	}},
}

func serveGrpc(path string, wait time.Duration, settings grpcSettings) {
	listener, err := net.Listen("unix", path)
	check(err)
	server := grpc.NewServer(settings.server...)
	server.RegisterService(&echoService, echo{wait})
	go func() { check(server.Serve(listener)) }()
}

func connectGrpc(path string, connections int, settings grpcSettings) client {
	opened := make([]*grpc.ClientConn, connections)
	for i := range opened {
		opened[i] = dialGrpc(path, settings)
	}
	open := func(number int) (lane, error) {
		return &grpcLane{connection: opened[number%connections]}, nil
	}
	return client{open: open, close: func() {}}
}

func dialGrpc(path string, settings grpcSettings) *grpc.ClientConn {
	options := append(settings.client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := grpc.NewClient("unix:"+path, options...)
	check(err)
	connection.Connect()
	return connection
}

type grpcLane struct {
	connection *grpc.ClientConn
	request    []byte
}

func (l *grpcLane) allocate(_ uint32, byteLength int) ([]byte, error) {
	if len(l.request) != byteLength {
		l.request = make([]byte, byteLength)
	}
	return l.request, nil
}

func (l *grpcLane) call(id uint32, request []byte) ([]byte, error) {
	reply := new(proto.Payload)
	err := l.connection.Invoke(context.Background(), echoMethod, &proto.Payload{Id: uint64(id), Data: request}, reply)
	if err == nil && reply.Id != uint64(id) {
		err = fmt.Errorf("payload mismatch: call %d was answered with the reply to %d", id, reply.Id)
	}
	return reply.Data, err
}

func (l *grpcLane) free() {}
