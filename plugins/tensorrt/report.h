// Where a plugin's messages go, and how its exceptions end.
#ifndef MEMVP_REPORT_H
#define MEMVP_REPORT_H

#include <exception>

namespace memvp
{

// To TensorRT's logger as an error; to standard error where none can be reached.
void report(char const* message) noexcept;

// What `work` returns, or `failed` after reporting the exception that ended it: TensorRT's interfaces are noexcept.
template <typename Result, typename Work>
Result guarded(Result failed, Work&& work) noexcept
{
    try
    {
        return work();
    }
    catch (std::exception const& error)
    {
        report(error.what());
    }
    catch (...)
    {
        report("an unknown exception");
    }
    return failed;
}

} // namespace memvp

#endif // MEMVP_REPORT_H
