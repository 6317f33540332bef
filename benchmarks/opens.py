"""What `judge_open` costs: for an agent that it has seen before, and for one that it has not."""

import itertools
import time

import workload
from measure import Result, interleaved
from webob import Request

from pixel_middleware.events import Visit, make_event
from pixel_middleware.processors.opens import judge_open
from pixel_middleware.wire.signatures import VERIFIED

ROUNDS, LOADS = 15, 200
GOAL_SEEN_S, GOAL_NEW_S = 20e-6, 500e-6


def results():
    judge = judge_open(networks=[f"10.{number}.0.0/16" for number in range(256)])
    builds = itertools.count()
    agents = {
        "seen before": lambda: workload.AGENTS[0],
        "new": lambda: f"{workload.AGENTS[0]} Reader/{next(builds)}",  # so that the whole crawler list is asked
    }
    runs = {name: lambda agent=agent: _seconds_a_load(judge, agent) for name, agent in agents.items()}
    costs = interleaved(runs, ROUNDS)
    yield Result("judge_open, an agent seen before", "the goal", costs["seen before"], GOAL_SEEN_S, 1.0, "us")
    yield Result("judge_open, a new agent", "the goal", costs["new"], GOAL_NEW_S, 1.0, "us")


def _seconds_a_load(judge, agent):
    loads = [_load(agent()) for _ in range(LOADS)]
    started = time.perf_counter()
    for event, request in loads:
        judge(event, request)
    return (time.perf_counter() - started) / LOADS


def _load(agent):
    properties = {"email_sent_at": "2026-01-02T03:04:05.678Z"}
    sent = {"writeKey": "k", "anonymousId": "a", "event": "Opened", "properties": properties}
    request = Request.blank("/", environ={"HTTP_USER_AGENT": agent, VERIFIED: True})
    return make_event("track", sent, Visit("192.0.2.1", agent)), request
