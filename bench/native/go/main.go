// Peers in Go: grpc-go and shmipc-go, with their default settings and tuned.
//
//	peers server PEER PATH WAIT_MS
//	peers client PEER PATH NUMBER CONNECTIONS
//	peers gateway PEER PATH
//	peers lines-server PEER PATH
//	peers lines-client PEER PATH
//
// It takes commands in lines, and ends when they end: see lines.ts.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	role, peer, path, rest := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	shut := func() {}
	handlers := map[string]func([]int){
		"usage": func([]int) { say(map[string]any{"type": "usage", "cpuMicros": cpuMicros()}) },
	}
	switch role {
	case "server":
		_ = os.Remove(path)
		startServer(peer, path, time.Duration(number(rest[0]))*time.Millisecond)
	case "client":
		client := connect(peer, path, number(rest[1]))
		shut = client.close
		generator := &generator{open: client.open, client: number(rest[0])}
		handlers["run"] = func(words []int) { go generator.run(loadOf(words)) }
	case "gateway":
		client := connect(peer, path, 1)
		shut = client.close
		port := startGateway(client.open)
		handlers["port"] = func([]int) { say(map[string]any{"type": "port", "port": port}) }
	case "lines-server":
		reader := serveLines(path, grpcSettingsOf(peer))
		handlers["delays"] = func([]int) { reader.sayDelays() }
	case "lines-client":
		connection := dialGrpc(path, grpcSettingsOf(peer))
		handlers["run"] = func(words []int) { go writeLines(connection, loadOf(words)) }
	}
	say(map[string]any{"type": "ready"})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		if words[0] == "stop" {
			break
		}
		numbers := make([]int, len(words)-1)
		for i, word := range words[1:] {
			numbers[i] = number(word)
		}
		handlers[words[0]](numbers)
	}
	shut()
}

func startServer(peer, path string, wait time.Duration) {
	switch peer {
	case "grpc-go", "grpc-go-tuned":
		serveGrpc(path, wait, grpcSettingsOf(peer))
	case "shmipc-go":
		serveShmipc(path, wait)
	case "shmipc-go-tuned":
		serveShmipcTuned(path, wait)
	default:
		fail(fmt.Errorf("unknown peer %s", peer))
	}
}

// A lane makes one call at a time.
type lane interface {
	// Where the request of the next call is to be written.
	allocate(id uint32, byteLength int) ([]byte, error)
	// The reply is valid until free.
	call(id uint32, request []byte) (reply []byte, err error)
	free()
}

type client struct {
	// Opens a lane by its number; lanes take the connections in turn.
	open  func(number int) (lane, error)
	close func()
}

func connect(peer, path string, connections int) client {
	if connections != 1 && strings.HasPrefix(peer, "shmipc") {
		fail(fmt.Errorf("%s has one connection", peer))
	}
	switch peer {
	case "grpc-go", "grpc-go-tuned":
		return connectGrpc(path, connections, grpcSettingsOf(peer))
	case "shmipc-go":
		return connectShmipc(path, shmipcDefaults())
	default:
		return connectShmipc(path, shmipcTuned())
	}
}

func number(word string) int {
	value, err := strconv.ParseFloat(word, 64)
	check(err)
	return int(value)
}

func cpuMicros() int64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano()/1_000 + usage.Stime.Nano()/1_000
}

func say(message any) {
	line, err := json.Marshal(message)
	check(err)
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

// Says what failed, and ends the process.
func fail(err error) {
	text := err.Error()
	mismatch := strings.Contains(text, "payload mismatch:")
	line, _ := json.Marshal(map[string]any{"type": "failed", "message": text, "mismatch": mismatch})
	_, _ = os.Stdout.Write(append(line, '\n'))
	os.Exit(1)
}
