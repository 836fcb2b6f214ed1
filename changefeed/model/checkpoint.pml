/*
 * A consumer's checkpoint (consumer.ts, checkpoint.ts): two members, one partition, changes 1 to N in its log.
 *
 * Ownership is advice: both members may believe at once that the partition is theirs. A member takes the checkpoint
 * over by writing an owner that is used once; from then on it commits each change's effect and the checkpoint in one
 * batch, under the checkpoint's etag. An etag stands for the value: owner and position. A batch is on its way for as
 * long as it likes, also after its sender was told "unknown", has asked, has tried again, or is dead.
 *
 *   exactly once, in order: the effect of change n is committed right behind that of n - 1, once;
 *   what a member believes to be committed is.
 *
 * Each M_... takes one precaution away, and must then fail (model.test.ts).
 */
#ifndef N
#define N 2
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#define MAX_OWNERS 3

byte owner, position;       /* the checkpoint */
byte applied;               /* the last change whose effect is committed */
byte owners;                /* how many were ever used */
byte faults;

/* An answer to the batch that a member waits for. */
mtype = { committed, refused };
chan answers[3] = [1] of { mtype, byte, byte };

/* A batch under way: whenever it arrives, it is executed whole, or refused as its etag does not hold. */
proctype Batch(byte member; byte from; byte etagOwner; byte etagPosition) {
  mtype outcome;
  atomic {
    if
#ifndef M_NO_ETAG
    :: owner != etagOwner || position != etagPosition -> outcome = refused
#endif
    :: else ->
       outcome = committed;
       assert(from + 1 == applied + 1);
       applied = from + 1;
#ifdef M_SEPARATE
    fi
  };
  atomic {
    if
    :: outcome == refused || owner != etagOwner || position != etagPosition
    :: else ->
#endif
       owner = etagOwner;
       position = from + 1
    fi;
    /* Nobody may be waiting any more. */
    if
    :: nfull(answers[member]) -> answers[member]!outcome(etagOwner, from)
    :: full(answers[member])
    fi
  }
}

proctype Member(byte me) {
  byte mine, at;            /* its owner, and the position that it believes in */
  byte wasOwner, wasPosition;
  byte o, f;

take_over:
end_taking:
  /* Reads, then writes with the etag that it read; what is under way may come in between. */
  atomic { owners < MAX_OWNERS -> wasOwner = owner; wasPosition = position };
  atomic {
    if
    :: owner != wasOwner || position != wasPosition -> goto take_over
    :: else ->
       owners++;
       mine = owners;
       owner = mine;
       at = position;
       wasOwner = 0; wasPosition = 0
    fi
  };

end_consuming:
  do
  :: at < N ->
     /* One that it no longer waits for may still be there. */
     do
     :: nempty(answers[me]) -> answers[me]?_,_,_
     :: empty(answers[me]) -> break
     od;
     atomic { _nr_pr < 7 -> run Batch(me, at, mine, at) };
     if
     :: answers[me]?committed(o, f) ->
        if
        :: o == mine && f == at -> assert(applied > at); at++
        :: else
        fi
     :: answers[me]?refused(o, f) ->
        if
        :: o == mine && f == at -> goto settle
        :: else
        fi
     /* The answer is lost. */
     :: atomic { faults < FAULTS -> faults++; goto settle }
     fi;
     o = 0; f = 0

  /* The other one is told that the partition is its own now, or is restarted: its next life takes over. */
  :: atomic { faults < FAULTS -> faults++; at = 0; mine = 0; goto take_over }
  od;

settle:
  o = 0; f = 0;
  atomic {
    if
    /* As it was: not committed yet, and tried again; what is still under way is then refused, or the retry is. */
    :: owner == mine && position == at
    :: owner == mine && position == at + 1 ->
       assert(applied > at);
       at++
#ifdef M_ASSUME_COMMITTED
    :: else -> assert(applied > at); at++
#else
    :: else -> at = 0; mine = 0; goto take_over
#endif
    fi
  };
  goto end_consuming
}

init {
  atomic { run Member(1); run Member(2) }
}
