"""What `spikeloop benchmark plasticity` runs in the interpreters of other libraries; imports nothing of ours.

`python plasticity_peers.py NAME TRAINS.npz FORM` prepares, says `ready` with the weights after one run, and then, for
each line it reads, runs the trains once and prints the seconds that took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], tuple[float, np.ndarray]]  # seconds, weights (post, pre) afterwards


def bindsnet(trains: dict[str, np.ndarray], rule: dict[str, float], form: str) -> Run:
    """MSTDPET between two layers of given spikes, updated on each step."""
    import torch
    from bindsnet.learning import MSTDPET
    from bindsnet.network.nodes import Input
    from bindsnet.network.topology import Connection

    torch.set_num_threads(1)
    n_post, n_pre = trains["w"].shape
    pre, post = torch.from_numpy(trains["pre"] != 0), torch.from_numpy(trains["post"] != 0)
    source, target = Input(n=n_pre), Input(n=n_post)
    source.set_batch_size(1)
    target.set_batch_size(1)
    bounds = {"wmin": rule["w_min"], "wmax": rule["w_max"]} if form == "bounded" else {}

    @torch.no_grad()
    def run() -> tuple[float, np.ndarray]:
        connection = Connection(
            source,
            target,
            update_rule=MSTDPET,
            nu=rule["learning_rate"] * rule["tau_e"],  # it divides what a pair adds by tau_e
            w=torch.from_numpy(trains["w"].T.copy()),
            tc_plus=rule["tau_plus"],
            tc_minus=rule["tau_minus"],
            tc_e_trace=rule["tau_e"],
            **bounds,
        )
        connection.dt = 1.0
        update, limit = connection.update_rule, rule["e_max"]
        begin = time.process_time()
        for t, reward in enumerate(trains["reward"].tolist()):
            source.s, target.s = pre[t : t + 1], post[t : t + 1]
            update.update(reward=reward, a_plus=rule["a_plus"], a_minus=-rule["a_minus"])
            if form == "bounded":
                update.eligibility_trace.clamp_(-limit / rule["tau_e"], limit / rule["tau_e"])
        return time.process_time() - begin, connection.w.numpy().T

    return run


def brian2(trains: dict[str, np.ndarray], rule: dict[str, float], form: str) -> Run:
    """Synapses in C++ standalone mode, float32, one thread; ``form`` ends in "tuned" for the best we could write.

    As in Brian2's own STDP examples, traces are event-driven variables of each synapse, the tag is clock-driven, and
    the weight is updated once per step. Tuned, traces belong to the neurons, and one pass decays tags and moves
    weights.
    """
    import brian2 as b2

    b2.prefs.core.default_float_dtype = np.float32
    b2.set_device("cpp_standalone", build_on_run=False)
    b2.defaultclock.dt = 1 * b2.ms
    n_post, n_pre = trains["w"].shape
    names = {
        **{name: rule[name] * b2.ms for name in ("tau_plus", "tau_minus", "tau_e")},
        **{name: rule[name] for name in ("a_plus", "a_minus", "learning_rate", "w_min", "w_max", "e_max")},
        "decay": float(np.exp(-1 / rule["tau_e"])),
        "reward": b2.TimedArray(trains["reward"], dt=1 * b2.ms),
        "pre_spikes": b2.TimedArray(trains["pre"].astype(np.float32), dt=1 * b2.ms),
        "post_spikes": b2.TimedArray(trains["post"].astype(np.float32), dt=1 * b2.ms),
    }
    tuned, bounded = form.endswith("tuned"), form.startswith("bounded")
    weight = "learning_rate * reward(t) * tag"
    move = f"w = clip(w + {weight}, w_min, w_max)" if bounded else f"w += {weight}"
    limit = "tag = clip(tag, -e_max, e_max)" if bounded else ""
    if tuned:
        eqs, reset = "d{0}/dt = -{0} / {1} : 1", "{0} += 1"
        on_pre, on_post = "tag -= a_minus * y_post", "tag += a_plus * x_pre"
        model, each_step = "w : 1\ntag : 1", f"{limit}\n{move}\ntag = tag * decay"
    else:
        eqs, reset = "", ""
        on_pre, on_post = "tag -= a_minus * y\nx += 1", "tag += a_plus * x\ny += 1"
        traces = "dx/dt = -x / tau_plus : 1 (event-driven)\ndy/dt = -y / tau_minus : 1 (event-driven)"
        model, each_step = f"w : 1\ndtag/dt = -tag / tau_e : 1 (clock-driven)\n{traces}", f"{limit}\n{move}"
    groups = [
        b2.NeuronGroup(
            n,
            eqs.format(trace, tau) or "unused : 1",
            threshold=f"{train}(t, i) > 0.5",
            reset=reset.format(trace),
            method="exact",
            namespace=names,
        )
        for n, trace, tau, train in ((n_pre, "x", "tau_plus", "pre_spikes"), (n_post, "y", "tau_minus", "post_spikes"))
    ]
    synapses = b2.Synapses(*groups, model, on_pre=on_pre, on_post=on_post, method="exact", namespace=names)
    synapses.connect()  # synapse i * n_post + j goes from i to j
    synapses.w = trains["w"].T.ravel()
    synapses.run_regularly(each_step, dt=1 * b2.ms, when="end")
    network = b2.Network(*groups, synapses)
    network.run(len(trains["reward"]) * b2.ms, namespace=names)
    folder = tempfile.TemporaryDirectory()  # removed with the process
    b2.device.build(directory=folder.name, run=False, compile=True)

    def run() -> tuple[float, np.ndarray]:
        b2.device.run(directory=folder.name)
        return b2.device._last_run_time, np.asarray(synapses.w[:]).reshape(n_pre, n_post).T

    return run


def main() -> int:
    """Prepare, then run once for each line read."""
    name, path, form = sys.argv[1:]
    with np.load(path) as file:
        trains: dict[str, Any] = {key: file[key] for key in file.files}
    rule = json.loads(str(trains.pop("rule")))
    run = {"bindsnet": bindsnet, "brian2": brian2}[name](trains, rule, form)
    _, weights = run()
    print("ready", json.dumps((weights - trains["w"]).astype(float).ravel()[::97].tolist()), flush=True)
    for _ in sys.stdin:
        print(run()[0], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
