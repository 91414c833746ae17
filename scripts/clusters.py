#!/usr/bin/env python3
"""How long answers take with 1 to 64 clusters of three servers, by simulation.

Jobs arrive at random (a Poisson process). A client gives each to the cluster with the shortest queue. A cluster runs what waits together, up to --together
jobs, in the seconds that `sordino bench service` or `sordino bench inference --batch` measured: --seconds for one job, --more for each further one.
"""

import argparse
import heapq
import random


def simulate(clusters, rate, seconds, more, together, jobs, seed):
    """Seconds from arrival to answer of every job, sorted."""
    draw = random.Random(seed)
    queues = [[] for _ in range(clusters)]
    busy = [False] * clusters
    ends, waits, now, arrived = [], [], 0.0, 0
    coming = draw.expovariate(rate)

    def begin(cluster):
        taken, queues[cluster] = queues[cluster][:together], queues[cluster][together:]
        busy[cluster] = bool(taken)
        if taken:
            heapq.heappush(ends, (now + seconds + more * (len(taken) - 1), cluster, taken))

    while arrived < jobs or ends:
        if arrived < jobs and (not ends or coming <= ends[0][0]):
            now = coming
            arrived += 1
            coming = now + draw.expovariate(rate)
            cluster = min(range(clusters), key=lambda c: (len(queues[c]) + busy[c], c))
            queues[cluster].append(now)
            if not busy[cluster]:
                begin(cluster)
        else:
            now, cluster, done = heapq.heappop(ends)
            waits.extend(now - then for then in done)
            begin(cluster)
    return sorted(waits)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.8, help="of a run of one job (ResNet-50 here: 1.8)")
    parser.add_argument("--more", type=float, default=0.0, help="of each further job of the same run")
    parser.add_argument("--together", type=int, default=1, help="jobs of a run, at most")
    parser.add_argument("--load", type=float, default=0.8, help="of what the clusters can do at most")
    parser.add_argument("--jobs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    full = args.together / (args.seconds + args.more * (args.together - 1))
    print("| clusters | jobs/s asked | median s | 99 % s |\n|---|---|---|---|")
    for clusters in (1, 2, 4, 8, 16, 32, 64):
        rate = args.load * clusters * full
        waits = simulate(clusters, rate, args.seconds, args.more, args.together, args.jobs, args.seed)
        at = lambda share: waits[min(len(waits) - 1, int(share * len(waits)))]
        print(f"| {clusters} | {rate:.1f} | {at(0.5):.2f} | {at(0.99):.2f} |")


if __name__ == "__main__":
    main()
