"""A network of BindsNET that learns a task by MSTDPET; run by an interpreter that has it, imports nothing of ours.

`python bindsnet_player.py N_PLACES N_ACTIONS N_PER_ACTION N_TICKS SEED WEIGHT INHIBITION TAU_E RATE`, weights in
units of thresholds, says `ready`. Then it answers each line of JSON, [[ticks, cells] of the spikes, reward, whether an
episode begins, whether it learns], with an action and the CPU seconds it has used.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from bindsnet.learning import MSTDPET
from bindsnet.network import Network
from bindsnet.network.monitors import Monitor
from bindsnet.network.nodes import Input, LIFNodes
from bindsnet.network.topology import Connection

THRESHOLD = 13.0  # mV above rest, BindsNET's default


def main() -> int:
    """Answer each line read."""
    n_places, n_actions, n_each, n_ticks, seed = map(int, sys.argv[1:6])
    weight, inhibition, tau_e, rate = map(float, sys.argv[6:])
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    n = n_actions * n_each
    network = Network(dt=1.0)
    network.add_layer(Input(n=n_places), "places")
    network.add_layer(LIFNodes(n=n, tc_decay=20.0, refrac=0), "actor")
    learned = Connection(
        network.layers["places"],
        network.layers["actor"],
        w=2 * weight * THRESHOLD * torch.rand(n_places, n),
        update_rule=MSTDPET,
        nu=rate * THRESHOLD,
        tc_e_trace=tau_e,
        wmin=0.0,
        wmax=4 * weight * THRESHOLD,
    )
    network.add_connection(learned, "places", "actor")
    population = torch.arange(n) // n_each
    other = (population[:, None] != population).float()
    inhibition = Connection(network.layers["actor"], network.layers["actor"], w=-inhibition * THRESHOLD * other)
    network.add_connection(inhibition, "actor", "actor")
    monitor = Monitor(network.layers["actor"], ["s"], time=n_ticks)
    network.add_monitor(monitor, "actor")
    print("ready", flush=True)
    for line in sys.stdin:
        (ticks, cells), reward, begins, learning = json.loads(line)
        if begins:
            network.reset_state_variables()
        network.learning = learning
        spikes = torch.zeros(n_ticks, 1, n_places)
        spikes[ticks, 0, cells] = 1.0
        network.run({"places": spikes}, time=n_ticks, reward=reward)
        counts = monitor.get("s").reshape(n_ticks, n_actions, n_each).sum(dim=(0, 2))
        print(int(counts.argmax()), time.process_time(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
