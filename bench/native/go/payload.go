package main

import (
	"bytes"
	"fmt"
)

// The same work as payload.ts: every byte is written and compared, at the speed of memory.
const (
	period      = 65_521
	startCount  = 1_021
	startStride = 61
)

type direction int

const (
	request direction = iota
	reply
)

var table = makeTable()

func makeTable() []byte {
	made := make([]byte, period*2)
	state := uint32(0x9e37_79b9)
	for i := range period {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		made[i] = byte(state >> 24)
	}
	copy(made[period:], made[:period])
	return made
}

func produce(data []byte, id uint32, direction direction) {
	start := startOf(id, direction)
	for len(data) > 0 {
		data = data[copy(data, table[start:start+period]):]
	}
}

func compare(data []byte, byteLength int, id uint32, direction direction) error {
	start := startOf(id, direction)
	same := len(data) == byteLength
	for at := 0; same && at < byteLength; at += period {
		part := data[at:min(at+period, byteLength)]
		same = bytes.Equal(part, table[start:start+len(part)])
	}
	if same {
		return nil
	}
	return fmt.Errorf("payload mismatch: the %s of call %d is not what was written", [...]string{"request", "reply"}[direction], id)
}

func startOf(id uint32, direction direction) int {
	mixed := (id ^ id>>15) * 0x2c1b_3c6d
	start := int((mixed ^ mixed>>12) % startCount)
	if direction == reply {
		start = (start + startCount/2) % startCount
	}
	return start * startStride
}

// As in answer.ts: a call's id is its sequence number, its client and its lane.
const (
	lanesMax = 128
	slots    = 8 * lanesMax
)

// The replies' memory. A lane makes one call at a time, so its reply before was received when it calls again.
var replies [slots][]byte

// Reads every byte of a request, and writes every byte of its reply.
func answer(id uint32, data []byte) []byte {
	slot := &replies[id%slots]
	if len(*slot) != len(data) {
		*slot = make([]byte, len(data))
	}
	answerInto(*slot, id, data)
	return *slot
}

func answerInto(target []byte, id uint32, data []byte) {
	check(compare(data, len(data), id, request))
	produce(target, id, reply)
}
