package main

import (
	"net"
	"net/http"
	"strconv"
)

const gatewayBytes = 64

// startGateway starts an HTTP server that makes a call of each request, as services/gateway.ts does. Returns its port.
func startGateway(open func(number int) (lane, error)) int {
	lanes := make(chan lane, lanesMax)
	for i := range lanesMax {
		lane, err := open(i)
		check(err)
		lanes <- lane
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	handler := http.HandlerFunc(func(response http.ResponseWriter, asked *http.Request) {
		id, err := strconv.ParseUint(asked.URL.Path[1:], 16, 32)
		check(err)
		lane := <-lanes
		defer func() { lanes <- lane }()
		data, err := lane.allocate(uint32(id), gatewayBytes)
		check(err)
		produce(data, uint32(id), request)
		received, err := lane.call(uint32(id), data)
		check(err)
		response.Header().Set("Content-Type", "application/octet-stream")
		response.Header().Set("Content-Length", strconv.Itoa(len(received)))
		_, _ = response.Write(received)
		lane.free()
	})
	go func() { check(http.Serve(listener, handler)) }()
	return listener.Addr().(*net.TCPAddr).Port
}
