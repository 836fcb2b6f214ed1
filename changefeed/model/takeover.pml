/*
 * The capture's takeover (capture/capture.ts, slot.ts, opening.ts, pipeline.ts) over a log of two partitions.
 *
 * Transactions are committed 1, 2, ... N, of one change each; change n is of partition n % 2. Two captures take turns
 * at the seat. One that is paused may lose the seat without noticing, and goes on with what it has received: on Kafka
 * nothing stops its appends, on the embedded log (FENCED) the writer's generation does. Once, the slot is lost, with
 * whatever was not confirmed. Captures are killed at any step.
 *
 * A stamp is an epoch and a number; number 0 is the record that opens the epoch.
 *
 * What a reader sees, as it drops every stamp that does not increase:
 *   ordered, unique, reliable: each change of a partition follows the one before it, with none missing;
 *   a gap is told: what the slot's loss lost lies before a record that opens an epoch;
 *   visible: no change is in the log before a new read of the primary sees it.
 * And what is confirmed to the slot is in the log.
 *
 * Each M_... takes one precaution away, and must then fail (model.test.ts).
 */
#ifndef N
#define N 3
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef PAUSES
#define PAUSES 1
#endif
#define STAMP(e, n) ((e) * 16 + (n))
#define EPOCH(stamp) ((stamp) / 16)
#define NUMBER(stamp) ((stamp) % 16)
/* The first change of partition p behind transaction n, and the last one up to it (0: none). */
#define NEXT(p, n) (((n) + 1) % 2 == (p) -> (n) + 1 : (n) + 2)
#define LAST(p, n) ((n) == 0 -> 0 : ((n) % 2 == (p) -> (n) : (n) - 1))

byte committed, visible;    /* transactions */
byte confirmed;             /* the slot's: a stream begins behind it */
byte epoch, base;           /* of the slot, and the transaction that it was made behind */
bool gone, losses;          /* the slot is gone; it has gone once */

byte seat, stream;          /* who has it; 0: nobody */
byte generation;            /* of the writer, on the embedded log */

byte tail[2];               /* the last stamp of each partition, as a new owner reads it */
byte seen[2];               /* the greatest: where a reader is */

bool paused[3];             /* has lost the seat, and has not noticed */
bool killed[3];             /* and its connections are to end */
byte crashes, pauses;

/* A record reaches partition p; a reader takes it, or drops it. */
inline append(p, stamp) {
  tail[p] = stamp;
  if
#ifndef M_NO_DROP
  :: stamp <= seen[p]
#endif
#ifdef M_NO_DROP
  :: true ->
#else
  :: else ->
#endif
     assert(stamp > seen[p]);
     assert(NUMBER(stamp) <= visible);
     if
     :: EPOCH(stamp) > EPOCH(seen[p]) -> assert(NUMBER(stamp) == 0)
     :: else ->
        if
        :: NUMBER(seen[p]) == 0 -> assert(NUMBER(stamp) == NEXT(p, (EPOCH(stamp) > 0 -> base : 0)))
        :: else -> assert(NUMBER(stamp) == NEXT(p, NUMBER(seen[p])))
        fi
     fi;
     seen[p] = stamp
  fi
}

/* A transaction is in the WAL, and a moment later new reads see it. */
active proctype Writers() {
  do
  :: atomic { committed < N -> committed++ }
  :: atomic { visible < committed -> visible++ }
  :: visible == N -> break
  od
}

/* What befalls captures: the slot goes, with its stream; one is stopped for so long that the seat goes; one is killed. */
active proctype Faults() {
end_faults:
  do
  :: atomic { !losses -> losses = true; gone = true; stream = 0 }
  :: atomic { pauses < PAUSES && seat != 0 -> pauses++; paused[seat] = true; seat = 0 }
  :: atomic { crashes < CRASHES && seat != 0 -> crashes++; killed[seat] = true }
  od
}

#ifdef FENCED
#define MAY_APPEND (myGeneration == generation)
#else
#define MAY_APPEND true
#endif

#ifdef M_NO_VISIBILITY
#define READY(p) true
#else
#define READY(p) ((at[p] + 1) % 2 != p || at[p] + 1 <= visible)
#endif

#ifdef M_ONE_TAIL
#define IS_NEW(p, stamp) ((stamp) > known[0] && (stamp) > known[1])
#else
#define IS_NEW(p, stamp) ((stamp) > known[p])
#endif

/* Deals with the next transaction, as far as it concerns partition p. Partitions do not wait for each other. */
inline deal(p) {
  at[p]++;
  if
  :: at[p] % 2 == p && IS_NEW(p, STAMP(mine, at[p])) ->
     if
     :: MAY_APPEND ->
#ifdef FENCED
        assert(STAMP(mine, at[p]) > tail[p]);
#endif
        append(p, STAMP(mine, at[p]))
     :: else -> goto idle
     fi
  :: else
  fi
}

inline open_epoch(p) {
  if
  :: mine > 0 && EPOCH(known[p]) < mine && MAY_APPEND -> append(p, STAMP(mine, 0))
  :: else
  fi
}

proctype Capture(byte me) {
  byte mine, myGeneration, received, dealt;
  byte known[2];    /* the tails, as they were read */
  byte at[2];       /* up to which transaction each partition is dealt with */

idle:
  atomic { mine = 0; received = 0; known[0] = 0; known[1] = 0; at[0] = 0; at[1] = 0 };
end_waiting:
  atomic { seat == 0 -> seat = me; paused[me] = false; killed[me] = false };
{
  /* A slot that is gone is made anew, under a new epoch; its stream begins at the WAL's end. */
  atomic {
    if
    :: gone -> epoch++; base = committed; confirmed = committed; gone = false
    :: else
    fi;
    mine = epoch
  };
#ifdef FENCED
  atomic { generation++; myGeneration = generation };
#endif
  known[0] = tail[0];
  known[1] = tail[1];
  /* Ends whoever still reads, and reads from behind what is confirmed. */
  atomic {
    if
    :: gone -> seat = (seat == me -> 0 : seat); goto idle
    :: else -> stream = me; received = confirmed; at[0] = confirmed; at[1] = confirmed
    fi
  };
  /*
   * Only now is it certain whose slot it is: one that is read cannot be made anew. Before that, one that was paused, or
   * has just started, may have made it anew.
   */
  atomic {
    if
#ifndef M_NO_EPOCH_CHECK
    :: epoch != mine -> stream = (stream == me -> 0 : stream); seat = (seat == me -> 0 : seat); goto idle
#endif
    :: else
    fi
  };
#ifndef M_NO_OPENING
  atomic { open_epoch(0) };
  atomic { open_epoch(1) };
#endif

end_reigning:
  do
  :: atomic { stream == me && received < committed -> received++ }
  :: atomic { at[0] < received && READY(0) -> deal(0) }
  :: atomic { at[1] < received && READY(1) -> deal(1) }

  /* Confirms what every partition has, over the stream. */
  :: atomic {
       stream == me && (at[0] > confirmed && at[1] > confirmed) ->
#ifdef M_CONFIRM_EARLY
       dealt = received;
#else
       dealt = (at[0] < at[1] -> at[0] : at[1]);
#endif
       assert(LAST(0, dealt) <= base || seen[0] >= STAMP(epoch, LAST(0, dealt)));
       assert(LAST(1, dealt) <= base || seen[1] >= STAMP(epoch, LAST(1, dealt)));
       confirmed = dealt;
       dealt = 0
     }

  /* Learns of it, sooner or later. */
  :: atomic { paused[me] -> stream = (stream == me -> 0 : stream); goto idle }
  :: atomic { stream != me && !paused[me] -> seat = (seat == me -> 0 : seat); goto idle }
  od
} unless {
  atomic {
    killed[me] ->
    seat = (seat == me -> 0 : seat);
    stream = (stream == me -> 0 : stream);
    goto idle
  }
}
}

init {
  atomic { run Capture(1); run Capture(2) }
}
