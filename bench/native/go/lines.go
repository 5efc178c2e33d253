package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"isthmus-bench/proto"
)

const (
	gatherMethod = "/isthmus.bench.LineService/Gather"
	lineBytes    = 100
)

// lineReader takes lines as services/lines.ts does: it compares them, and notes how long each took.
type lineReader struct {
	mutex    sync.Mutex
	delaysMs []float64
}

func serveLines(path string, settings grpcSettings) *lineReader {
	reader := &lineReader{}
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	check(err)
	server := grpc.NewServer(settings.server...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "isthmus.bench.LineService",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    "Gather",
			ClientStreams: true,
			Handler:       func(_ any, stream grpc.ServerStream) error { return reader.gather(stream) },
		}},
	}, reader)
	go func() { check(server.Serve(listener)) }()
	return reader
}

func (r *lineReader) gather(stream grpc.ServerStream) error {
	for count := uint32(0); ; count++ {
		line := new(proto.Payload)
		err := stream.RecvMsg(line)
		if err == io.EOF {
			return stream.SendMsg(&proto.Payload{Id: uint64(count)})
		}
		if err != nil {
			return err
		}
		delay := monotonic() - time.Duration(line.Id)
		check(compare(line.Data, lineBytes, count, request))
		r.mutex.Lock()
		r.delaysMs = append(r.delaysMs, milliseconds(delay))
		r.mutex.Unlock()
	}
}

// sayDelays says how long the lines took since it was asked before.
func (r *lineReader) sayDelays() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	say(map[string]any{"type": "delays", "lines": len(r.delaysMs), "delaysMs": samples(r.delaysMs)})
	r.delaysMs = r.delaysMs[:0]
}

// writeLines lets producers write lines, each to a stream of its own on one connection.
func writeLines(connection *grpc.ClientConn, load load) {
	cpuFrom := cpuMicros()
	from := time.Now()
	counts := make([]int, load.inFlight)
	var working sync.WaitGroup
	for producer := range counts {
		working.Go(func() {
			count, err := produceLines(connection, load, from.Add(load.duration))
			check(err)
			counts[producer] = count
		})
	}
	working.Wait()
	elapsed, cpu := time.Since(from), cpuMicros()-cpuFrom
	calls := 0
	for _, count := range counts {
		calls += count
	}
	sayStretch(calls, elapsed, cpu, nil, nil)
}

func produceLines(connection *grpc.ClientConn, load load, until time.Time) (int, error) {
	stream, err := connection.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true}, gatherMethod)
	if err != nil {
		return 0, err
	}
	ticker := time.NewTicker(load.pause)
	defer ticker.Stop()
	count := uint32(0)
	for <-ticker.C; time.Now().Before(until); <-ticker.C {
		data := make([]byte, load.byteLength)
		produce(data, count, request)
		if err := stream.SendMsg(&proto.Payload{Id: uint64(monotonic()), Data: data}); err != nil {
			return 0, err
		}
		count++
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	came := new(proto.Payload)
	if err := stream.RecvMsg(came); err != nil {
		return 0, err
	}
	if came.Id != uint64(count) {
		return 0, fmt.Errorf("payload mismatch: %d of %d lines came", came.Id, count)
	}
	return int(count), nil
}

// monotonic is the clock that all processes share.
func monotonic() time.Duration {
	var now unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return time.Duration(now.Nano())
}
