package main

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// Latencies kept of a stretch, as in measure.ts: what is kept stays a fair sample.
const samplesMax = 1 << 17

type load struct {
	byteLength, inFlight, callsMax int
	pause, duration                time.Duration
}

func loadOf(words []int) load {
	return load{
		byteLength: words[0],
		inFlight:   words[1],
		pause:      time.Duration(words[2]) * time.Millisecond,
		callsMax:   words[3],
		duration:   time.Duration(words[4]) * time.Millisecond,
	}
}

// generator makes calls as load.ts does.
type generator struct {
	open   func(number int) (lane, error)
	client int
	lanes  []lane
	ids    []uint32

	mutex     sync.Mutex
	calls     int
	callMs    []float64
	payloadMs []float64
}

func (g *generator) run(load load) {
	for len(g.lanes) < load.inFlight {
		lane, err := g.open(len(g.lanes))
		check(err)
		g.ids = append(g.ids, uint32(g.client*lanesMax+len(g.lanes)))
		g.lanes = append(g.lanes, lane)
	}
	g.calls, g.callMs, g.payloadMs = 0, g.callMs[:0], g.payloadMs[:0]
	cpuFrom := cpuMicros()
	from := time.Now()
	var working sync.WaitGroup
	for number := range load.inFlight {
		working.Go(func() { check(g.drive(number, load, from.Add(load.duration))) })
	}
	working.Wait()
	elapsed, cpu := time.Since(from), cpuMicros()-cpuFrom
	sayStretch(g.calls, elapsed, cpu, g.callMs, g.payloadMs)
}

func sayStretch(calls int, elapsed time.Duration, cpuMicros int64, callMs, payloadMs samples) {
	say(map[string]any{"type": "stretch", "stretch": map[string]any{
		"calls":     calls,
		"elapsedMs": milliseconds(elapsed),
		"cpuMicros": cpuMicros,
		"heapBytes": nil,
		"callMs":    callMs,
		"payloadMs": payloadMs,
	}})
}

func (g *generator) drive(number int, load load, until time.Time) error {
	lane := g.lanes[number]
	for more := true; more; {
		if load.pause > 0 {
			time.Sleep(load.pause)
		}
		g.ids[number] += slots
		id := g.ids[number]
		producing := time.Now()
		data, err := lane.allocate(id, load.byteLength)
		if err != nil {
			return err
		}
		produce(data, id, request)
		called := time.Now()
		received, err := lane.call(id, data)
		if err != nil {
			return err
		}
		replied := time.Now()
		if err := compare(received, load.byteLength, id, reply); err != nil {
			return err
		}
		read := time.Now()
		lane.free()
		count := g.record(milliseconds(replied.Sub(called)), milliseconds(read.Sub(producing)))
		more = producing.Before(until) && (load.callsMax == 0 || count < load.callsMax)
	}
	return nil
}

// record returns how many calls there were.
func (g *generator) record(callMs, payloadMs float64) int {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.calls++
	if len(g.callMs) < samplesMax {
		g.callMs = append(g.callMs, callMs)
		g.payloadMs = append(g.payloadMs, payloadMs)
	} else if at := rand.IntN(g.calls); at < samplesMax {
		g.callMs[at], g.payloadMs[at] = callMs, payloadMs
	}
	return g.calls
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration) / float64(time.Millisecond)
}

// samples are written with six decimals at most, which is shorter than JSON's own way.
type samples []float64

func (s samples) MarshalJSON() ([]byte, error) {
	text := make([]byte, 0, 2+10*len(s))
	text = append(text, '[')
	for i, value := range s {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendFloat(text, value, 'f', 6, 64)
	}
	return append(text, ']'), nil
}
