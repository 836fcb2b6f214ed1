// Command linearizability reads a history of operations on objects (JSON lines, see operation) from a file and checks
// with porcupine whether each object behaved as if they had been made one after the other.
//
// It prints a line of JSON a key: its verdict is ok, illegal or unknown (not decided in time). It ends with 0 where all
// are ok, 1 where one is illegal, 2 where one is unknown, 3 where the history cannot be read. Of each key that is
// illegal it leaves porcupine's picture in a file.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/anishathalye/porcupine"
)

type verdict struct {
	Key        string `json:"key"`
	Operations int    `json:"operations"`
	Unknown    int    `json:"unknown"`
	Verdict    string `json:"verdict"`
	Picture    string `json:"picture,omitempty"`
}

func main() {
	timeout := flag.Duration("timeout", time.Minute, "for each key")
	pictures := flag.String("pictures", ".", "directory for pictures of what is illegal")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: linearizability [options] HISTORY")
		os.Exit(3)
	}
	status, err := run(flag.Arg(0), *pictures, *timeout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(status)
}

func run(path, pictures string, timeout time.Duration) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	history, err := readHistory(file)
	if err != nil {
		return 0, err
	}
	if len(history) == 0 {
		return 0, errors.New("the history is empty")
	}
	keys, parts := byKey(history)
	lines := json.NewEncoder(os.Stdout)
	status := 0
	for number, key := range keys {
		operations := toPorcupine(parts[key])
		result := porcupine.CheckOperationsTimeout(model, operations, timeout)
		line := verdict{Key: key, Operations: len(operations), Verdict: "ok"}
		for _, op := range operations {
			if op.Output == "unknown" {
				line.Unknown++
			}
		}
		switch result {
		case porcupine.Illegal:
			status = 1
			line.Verdict = "illegal"
			line.Picture = filepath.Join(pictures, fmt.Sprintf("illegal-%d.html", number))
			// Once more, which takes longer, for what a picture shows.
			_, info := porcupine.CheckOperationsVerbose(model, operations, timeout)
			if err := porcupine.VisualizePath(model, info, line.Picture); err != nil {
				return 0, err
			}
		case porcupine.Unknown:
			if status == 0 {
				status = 2
			}
			line.Verdict = "unknown"
		}
		if err := lines.Encode(line); err != nil {
			return 0, err
		}
	}
	return status, nil
}
