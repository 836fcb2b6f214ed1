package main

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// object is the state of one key. The zero object is none.
type object struct {
	exists bool
	value  string
	etag   string
}

// model is one object of the KV tier, as a client may expect it to behave.
//
// An operation of unknown outcome returns after everything else, so that it may be placed anywhere after its call. It
// takes effect there, where its check allows it; one that never happened is placed last, where nobody can see it.
var model = porcupine.Model{
	Init: func() interface{} { return object{} },
	Step: func(state, input, output interface{}) (bool, interface{}) {
		return step(state.(object), input.(operation), output.(string))
	},
	DescribeOperation: func(input, output interface{}) string { return describe(input.(operation), output.(string)) },
	DescribeState: func(state interface{}) string {
		if now := state.(object); now.exists {
			return fmt.Sprintf("%s (%s)", now.value, now.etag)
		}
		return "none"
	},
}

func step(now object, op operation, outcome string) (bool, object) {
	if op.Op == "get" {
		if outcome == "missing" {
			return !now.exists, now
		}
		return now == object{true, op.FoundValue, op.FoundEtag}, now
	}
	allowed := op.Check == "any" || (op.Check == "none" && !now.exists) ||
		(op.Check == "etag" && now.exists && now.etag == op.Want)
	after := object{}
	if op.Op == "put" {
		after = object{true, op.Value, op.Etag}
	} else if !now.exists {
		// Nothing to delete, whatever was asked of it.
		return outcome == "missing" || outcome == "unknown", now
	}
	switch outcome {
	case "ok":
		return allowed, after
	case "conflict":
		return !allowed && op.Exists == now.exists && op.FoundEtag == now.etag, now
	case "unknown":
		if allowed {
			return true, after
		}
		return true, now
	}
	return false, now
}

func describe(op operation, outcome string) string {
	if op.Op == "get" {
		if outcome == "missing" {
			return "get: none"
		}
		return fmt.Sprintf("get: %s (%s)", op.FoundValue, op.FoundEtag)
	}
	text := op.Op
	if op.Op == "put" {
		text += fmt.Sprintf(" %s (%s)", op.Value, op.Etag)
	}
	switch op.Check {
	case "none":
		text += " if none"
	case "etag":
		text += " if " + op.Want
	}
	if outcome == "conflict" {
		if op.Exists {
			return text + ": is " + op.FoundEtag
		}
		return text + ": is none"
	}
	return text + ": " + outcome
}
