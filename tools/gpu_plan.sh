#!/usr/bin/env bash
# The first hour on a GPU, stage by stage. Every stage continues where it was cut off: the same
# command again, on the same KEEP, does what is left.
#
#   KEEP=/scratch/sam DATA=/scratch/data LIMIT=560 tools/gpu_plan.sh [STAGE ...]
#
#   check      the tests that need a GPU; whether steps can be replayed (if not, graphs are off)
#   calibrate  first seeds of the base optimizer, SAM and SAM-ON beside KNOWN's committed records
#   evidence   every run of PROFILE without a committed record of a GPU, several at once, and its
#              measurements while weights are there
#   bench      steps and epochs of four networks, then runs per hour by number of workers
#   headline   the runs of HEADLINE's introduction
#
# Without a stage: all, in this order. What fails in check or calibrate ends the plan. At the end,
# also of a call that was cut off, OUT/gpu-plan.tgz holds records, bench records and the log.
#
# Environment: KEEP, a folder that lasts (needed); OUT, of the archive (KEEP); DATA, of data caches
# (the project's); DEVICE (cuda); LIMIT, seconds of this call (none); PYTHON (python3); PROFILE
# (cifar100-45k); KNOWN (cifar100-10k); HEADLINE (cifar100-short); WORKERS (8 under MPS, else 3);
# MPS=0 leaves NVIDIA's multi-process service alone; SAMLIB_COMMIT, of a tree without .git.
# TINY=1 tries it all on a CPU.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
case ${1:-} in -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' tools/gpu_plan.sh && exit ;; esac
: "${KEEP:?is the folder that lasts: KEEP=/some/folder $0}"
if [ "${TINY:-0}" = 1 ]; then
  DEVICE=cpu PROFILE=smoke KNOWN=smoke HEADLINE=smoke WORKERS=2 MPS=0
  TESTS=tests/trainer/test_cuda_graphs.py
  EVIDENCE="--only sharpness" BENCH="--networks resnet8:2 --images 4 --rounds 1"
  PACKING="--profile smoke --epochs 1 --images 64 --runs 1 --rounds 1 --workers 1"
fi
DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} PROFILE=${PROFILE:-cifar100-45k}
KNOWN=${KNOWN:-cifar100-10k} HEADLINE=${HEADLINE:-cifar100-short}
OUT=${OUT:-$KEEP} LIMIT=${LIMIT:-1000000}
mkdir -p "$KEEP" "$OUT" || exit 2
KEEP=$(cd "$KEEP" && pwd) OUT=$(cd "$OUT" && pwd) R=$KEEP/results
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${DATA:-}" ]; then export SAMLIB_DATA=$DATA; fi
if [ -f "$KEEP/no-graphs" ]; then export SAMLIB_GRAPHS=0; fi

say() { echo "== $*" | tee -a "$KEEP/log"; }
left() { echo $((LIMIT - SECONDS > 1 ? LIMIT - SECONDS : 1)); }
within() { # a command, interrupted when this call's time is up, or when this call is
  say "$*"
  timeout -k 30 -s INT "$(left)" "$@" > >(tee -ia "$KEEP/log") 2>&1 &
  command=$!
  wait "$command"
}
samlib() { within "$PYTHON" -m samlib "$@"; }

archive() {
  alone
  sleep 0.2 # tee has the last lines of the log
  (cd "$KEEP" && tar czf "$OUT/gpu-plan.tgz" --exclude=weights --exclude=checkpoints \
    --exclude=.lock --exclude=gpu-plan.tgz -- *) && echo "== kept: $OUT/gpu-plan.tgz"
}
stop() { # bash would let the command end first
  trap '' INT TERM
  if [ -n "${command:-}" ]; then kill -INT "$command" 2> /dev/null && wait "$command"; fi
  say "interrupted; the same command continues"
  exit 130
}
trap archive EXIT
trap stop INT TERM

share() { # kernels of several processes at the same time, where the service is there
  if [ "${MPS:-1}" = 1 ] && [ "$DEVICE" != cpu ] && [ -z "${SERVES:-}" ] &&
    command -v nvidia-cuda-mps-control > /dev/null; then
    nvidia-cuda-mps-control -d > /dev/null && sleep 2 && SERVES=1
  fi
  workers=${WORKERS:-$([ -n "${SERVES:-}" ] && echo 8 || echo 3)}
}

alone() { # as what is timed has to be
  if [ -n "${SERVES:-}" ]; then echo quit | nvidia-cuda-mps-control && SERVES=; fi
}

check() {
  code=$(git rev-parse HEAD 2> /dev/null || echo "${SAMLIB_COMMIT:-unknown}")
  if [ "$(cat "$KEEP/checked" 2> /dev/null)" = "$code" ]; then return 0; fi
  if [ -f "$KEEP/no-graphs" ]; then rm "$KEEP/no-graphs" && unset SAMLIB_GRAPHS; fi # of other code
  several= # tests at once; on a CPU none of them runs
  if [ "$DEVICE" != cpu ] && "$PYTHON" -c 'import xdist' 2> /dev/null; then several="-n 8"; fi
  # shellcheck disable=SC2086 # several words
  within "$PYTHON" -m pytest -o addopts= -W default -m cuda -q $several \
    ${TESTS:-$(grep -rl --include='*.py' mark.cuda tests | sort)} || return 1
  within "$PYTHON" tools/probe.py capture --device "$DEVICE"
  case $? in
    0) ;;
    3)
      say "steps are not replayed: graphs are off from here on, everything else goes on"
      touch "$KEEP/no-graphs" && export SAMLIB_GRAPHS=0
      ;;
    *) return 1 ;;
  esac
  echo "$code" > "$KEEP/checked"
}

calibrate() {
  within "$PYTHON" tools/probe.py accuracy --device "$DEVICE" --profile "$KNOWN" \
    --records results --out "$KEEP/calibration"
}

begin() { # with the records of a GPU that the project has; those of a CPU are no pairs of theirs
  runs=results/$PROFILE/runs
  if [ ! -d "$R/$PROFILE" ] && [ -d "$runs" ] && [ -z "$(grep -L '"gpu": "' "$runs"/*.json)" ]; then
    mkdir -p "$R" && cp -r "results/$PROFILE" "$R/"
  fi
}

evidence() {
  begin
  share
  # shellcheck disable=SC2086
  samlib run --profile "$PROFILE" --device "$DEVICE" --results "$R" --workers "$workers" \
    --time-budget "$(left)" ${EVIDENCE:-}
}

bench() {
  alone
  # shellcheck disable=SC2086
  samlib bench gpu --device "$DEVICE" --results "$R" ${BENCH:-} || return 1
  ls "$R"/bench/packing-* > /dev/null 2>&1 ||
    samlib bench packing --device "$DEVICE" --results "$R" ${PACKING:---epochs 4 --runs 2 --rounds 2}
}

headline() {
  share
  samlib run --profile "$HEADLINE" --only introduction --device "$DEVICE" --results "$R" \
    --workers "$((workers < 2 ? workers : 2))" --time-budget "$(left)"
}

{ # read whole before it runs, so that the file may be replaced meanwhile
  failed=0 ends=
  for stage in ${@:-check calibrate evidence bench headline}; do
    case $stage in
      check | calibrate | evidence | bench | headline) ;;
      *) say "no stage $stage; there are check, calibrate, evidence, bench, headline"; exit 2 ;;
    esac
    if ! $stage; then
      failed=1
      say "$stage is not done; the same command continues with it"
      case $stage in
        check | calibrate) ends=1 ;;
      esac
    fi
    if [ "$(left)" -le 1 ]; then
      say "the time is up after $stage; the same command continues"
      exit 124
    fi
    if [ "$ends" ]; then
      say "that ends the plan; to go on all the same, name the later stages"
      exit 1
    fi
  done
  exit "$failed"
}
