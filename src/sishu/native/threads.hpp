// Work done by several threads at once.
//
// torch's own threads are borrowed where it has them from GNU's OpenMP: after each operation they look for the next
// one for a while without sleeping, and would keep threads of ours from their cores.

#pragma once

#include <cstdint>
#include <thread>
#include <vector>

struct Team {  // of torch: OpenMP's functions, or none
    void (*together)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
    int (*number)() = nullptr, (*size)() = nullptr;
};

inline Team team;

namespace {

// Do `work` for every thread's number, all at the same time.
template <class Do> void on_threads(int64_t threads, Do work) {
    if (threads == 1) return work(0);
    struct Call {
        Do *work;
        int64_t threads;
        bool came;
    } call{&work, threads, false};
    if (team.together)
        team.together(
            [](void *given) {
                Call &call = *(Call *)given;
                if (team.size() != call.threads) return;  // within another team's work there may be fewer
                if (team.number() == 0) call.came = true;
                (*call.work)(team.number());
            },
            &call, unsigned(threads), 0);
    if (call.came) return;
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads; thread++) others.emplace_back([&work, thread] { work(thread); });
    work(0);
    for (auto &other : others) other.join();
}

}  // namespace
