package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sort"

	"github.com/anishathalye/porcupine"
)

// An operation is a line of the history: one attempt of a client at a get, put or delete of one object.
type operation struct {
	Client int    `json:"client"`
	Key    string `json:"key"`
	// Nanoseconds on one monotonic clock: before the request was sent, after its answer came.
	Start int64  `json:"start"`
	End   int64  `json:"end"`
	Op    string `json:"op"` // get, put, delete

	// What is written, and its etag.
	Value string `json:"value"`
	Etag  string `json:"etag"`
	// What is asked of the object before a write: any (nothing), none (no object), etag (that it is Want).
	Check string `json:"check"`
	Want  string `json:"want"`

	// ok, conflict, missing: as answered. unknown: may take effect at any time after Start, or never. failed: answered
	// as having had no effect.
	Outcome string `json:"outcome"`
	// What a get answered, and the etag that a conflict named; Exists is false where it named none.
	Exists     bool   `json:"exists"`
	FoundValue string `json:"foundValue"`
	FoundEtag  string `json:"foundEtag"`
}

var never = int64(math.MaxInt64)

// readHistory reads operations, a line each, and leaves out those that had no effect and tell nothing.
func readHistory(reader io.Reader) ([]operation, error) {
	var history []operation
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, 16<<20)
	for number := 1; lines.Scan(); number++ {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if err := op.validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if op.Outcome == "failed" || (op.Op == "get" && op.Outcome == "unknown") {
			continue
		}
		if op.Outcome == "unknown" {
			op.End = never
		}
		history = append(history, op)
	}
	return history, lines.Err()
}

func (op *operation) validate() error {
	outcomes := map[string]map[string]bool{
		"get":    {"ok": true, "missing": true, "unknown": true, "failed": true},
		"put":    {"ok": true, "conflict": true, "unknown": true, "failed": true},
		"delete": {"ok": true, "conflict": true, "missing": true, "unknown": true, "failed": true},
	}
	switch {
	case op.Key == "":
		return fmt.Errorf("no key")
	case !outcomes[op.Op][op.Outcome]:
		return fmt.Errorf("a %q cannot end with %q", op.Op, op.Outcome)
	case op.Op != "get" && op.Check != "any" && op.Check != "none" && op.Check != "etag":
		return fmt.Errorf("no check is called %q", op.Check)
	case op.Op == "put" && (op.Value == "" || op.Etag == ""):
		return fmt.Errorf("a put without a value or its etag")
	case op.Outcome != "unknown" && op.End < op.Start:
		return fmt.Errorf("it ends before it starts")
	}
	return nil
}

// byKey parts a history; objects of different keys have nothing to do with each other.
func byKey(history []operation) (keys []string, parts map[string][]operation) {
	parts = map[string][]operation{}
	for _, op := range history {
		parts[op.Key] = append(parts[op.Key], op)
	}
	for key := range parts {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys, parts
}

// seen is the etag of the object that an answer proves to have been there.
func (op *operation) seen() (string, bool) {
	switch {
	case op.Op == "get" && op.Outcome == "ok", op.Outcome == "conflict" && op.Exists:
		return op.FoundEtag, true
	case op.Op != "get" && op.Outcome == "ok" && op.Check == "etag":
		return op.Want, true
	}
	return "", false
}

// toPorcupine turns the operations of one key into porcupine's.
//
// A put of an unknown outcome whose etag somebody has seen did happen, and before whoever saw it first had the answer.
// It is told so to porcupine, which then need not try it at every later moment. That holds because no two puts of a
// key write the same; where they do, nothing is concluded.
func toPorcupine(part []operation) []porcupine.Operation {
	puts := map[string]int{}
	firstSeen := map[string]int64{}
	for i := range part {
		op := &part[i]
		if op.Op == "put" {
			puts[op.Etag]++
		}
		if etag, ok := op.seen(); ok {
			if at, before := firstSeen[etag]; !before || op.End < at {
				firstSeen[etag] = op.End
			}
		}
	}
	out := make([]porcupine.Operation, len(part))
	for i := range part {
		op := part[i]
		if op.Op == "put" && op.Outcome == "unknown" && puts[op.Etag] == 1 {
			if at, ok := firstSeen[op.Etag]; ok && at >= op.Start {
				op.Outcome, op.End = "ok", at
			}
		}
		out[i] = porcupine.Operation{ClientId: op.Client, Input: op, Output: op.Outcome, Call: op.Start, Return: op.End}
	}
	return out
}
