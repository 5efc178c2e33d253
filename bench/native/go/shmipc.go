package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/cloudwego/shmipc-go"
)

// A message is its call's id in four bytes, its data's length in four, and the data.
const headerBytes = 8

// Longer than a busy machine takes; it has no part in calls.
const initializeTimeout = 30 * time.Second

type shmipcSettings struct {
	session *shmipc.SessionManagerConfig
	// Requests are written in shared memory, not copied there.
	inPlace bool
}

func init() {
	// The library logs to standard output, which is for our own lines.
	const nothing = 5
	shmipc.SetLogLevel(nothing)
}

func shmipcDefaults() shmipcSettings {
	session := shmipc.DefaultSessionManagerConfig()
	quiet(session.Config)
	return shmipcSettings{session: session}
}

// Memory files, slices that fit the payloads, and no copies.
func shmipcTuned() shmipcSettings {
	session := shmipc.DefaultSessionManagerConfig()
	quiet(session.Config)
	tune(session.Config)
	return shmipcSettings{session: session, inPlace: true}
}

func quiet(config *shmipc.Config) {
	config.LogOutput = os.Stderr
	config.InitializeTimeout = initializeTimeout
}

func tune(config *shmipc.Config) {
	config.MemMapType = shmipc.MemMapTypeMemFd
	config.BufferSliceSizes = []*shmipc.SizePercentPair{
		{Size: 256, Percent: 5},
		{Size: 8 << 10, Percent: 25},
		{Size: 68 << 10, Percent: 70},
	}
}

// As in the library's examples: a goroutine for each stream.
func serveShmipc(path string, wait time.Duration) {
	listener, err := net.Listen("unix", path)
	check(err)
	go func() {
		for {
			connection, err := listener.Accept()
			check(err)
			config := shmipc.DefaultConfig()
			quiet(config)
			go serveSession(connection, config, wait)
		}
	}()
}

func serveSession(connection net.Conn, config *shmipc.Config, wait time.Duration) {
	session, err := shmipc.Server(connection, config)
	check(err)
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			for answerOne(stream, stream.BufferReader(), wait, false) == nil {
				stream.BufferReader().ReleasePreviousRead()
			}
		}()
	}
}

// With the library's asynchronous interface.
func serveShmipcTuned(path string, wait time.Duration) {
	config := shmipc.NewDefaultListenerConfig(path, "unix")
	quiet(config.Config)
	tune(config.Config)
	listener, err := shmipc.NewListener(&newStreams{wait}, config)
	check(err)
	go func() { check(listener.Run()) }()
}

type newStreams struct{ wait time.Duration }

func (n *newStreams) OnNewStream(stream *shmipc.Stream) {
	check(stream.SetCallbacks(&streamAnswer{stream, n.wait}))
}

func (n *newStreams) OnShutdown(string) {}

type streamAnswer struct {
	stream *shmipc.Stream
	wait   time.Duration
}

func (s *streamAnswer) OnData(reader shmipc.BufferReader) {
	check(answerOne(s.stream, reader, s.wait, true))
	s.stream.ReleaseReadAndReuse()
}

func (s *streamAnswer) OnLocalClose() {}

func (s *streamAnswer) OnRemoteClose() {}

func answerOne(stream *shmipc.Stream, reader shmipc.BufferReader, wait time.Duration, inPlace bool) error {
	id, data, err := readMessage(reader)
	if err != nil {
		return err
	}
	writer := stream.BufferWriter()
	if inPlace {
		target, err := reserve(writer, id, len(data))
		if err != nil {
			return err
		}
		answerInto(target, id, data)
	} else if err := write(writer, id, answer(id, data)); err != nil {
		return err
	}
	if wait > 0 {
		time.Sleep(wait)
	}
	return stream.Flush(false)
}

func readMessage(reader shmipc.BufferReader) (uint32, []byte, error) {
	header, err := reader.ReadBytes(headerBytes)
	if err != nil {
		return 0, nil, err
	}
	id, byteLength := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:])
	data, err := reader.ReadBytes(int(byteLength))
	return id, data, err
}

// reserve writes a header, and returns where the data goes.
func reserve(writer shmipc.BufferWriter, id uint32, byteLength int) ([]byte, error) {
	message, err := writer.Reserve(headerBytes + byteLength)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(message, id)
	binary.LittleEndian.PutUint32(message[4:], uint32(byteLength))
	return message[headerBytes:], nil
}

// write copies the data.
func write(writer shmipc.BufferWriter, id uint32, data []byte) error {
	header, err := writer.Reserve(headerBytes)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(header, id)
	binary.LittleEndian.PutUint32(header[4:], uint32(len(data)))
	_, err = writer.WriteBytes(data)
	return err
}

func connectShmipc(path string, settings shmipcSettings) client {
	settings.session.Network, settings.session.Address = "unix", path
	session, err := shmipc.NewSessionManager(settings.session)
	check(err)
	open := func(int) (lane, error) {
		stream, err := session.GetStream()
		return &shmipcLane{stream: stream, inPlace: settings.inPlace}, err
	}
	return client{open: open, close: func() { removeFiles(settings.session.ShareMemoryPathPrefix) }}
}

// removeFiles removes this process's files of shared memory. Closing a session does so too, but some time later.
func removeFiles(prefix string) {
	files, _ := filepath.Glob(fmt.Sprintf("%s_%d_*", prefix, os.Getpid()))
	for _, file := range files {
		_ = os.Remove(file)
	}
}

type shmipcLane struct {
	stream  *shmipc.Stream
	inPlace bool
	request []byte
}

func (l *shmipcLane) allocate(id uint32, byteLength int) ([]byte, error) {
	if l.inPlace {
		return reserve(l.stream.BufferWriter(), id, byteLength)
	}
	if len(l.request) != byteLength {
		l.request = make([]byte, byteLength)
	}
	return l.request, nil
}

func (l *shmipcLane) call(id uint32, request []byte) ([]byte, error) {
	if !l.inPlace {
		if err := write(l.stream.BufferWriter(), id, request); err != nil {
			return nil, err
		}
	}
	if err := l.stream.Flush(false); err != nil {
		return nil, err
	}
	replied, reply, err := readMessage(l.stream.BufferReader())
	if err == nil && replied != id {
		err = fmt.Errorf("payload mismatch: call %d was answered with the reply to %d", id, replied)
	}
	return reply, err
}

func (l *shmipcLane) free() {
	if l.inPlace {
		l.stream.ReleaseReadAndReuse()
	} else {
		l.stream.BufferReader().ReleasePreviousRead()
	}
}
