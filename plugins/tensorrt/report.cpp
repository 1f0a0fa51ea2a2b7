#include "report.h"

#include "contract.h"
#include "export.h"

#include <cstdio>

#if NV_TENSORRT_MAJOR == 10 && defined(__GLIBCXX__)
#define MEMVP_SERVES_11 1
#include "finder11.h"
#else
#define MEMVP_SERVES_11 0
#endif

#if NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6
#define MEMVP_HAS_FINDER 0
// Weak, so that the library can be opened where TensorRT is not.
#pragma weak getLogger
#else
#define MEMVP_HAS_FINDER 1
#include <atomic>
#endif

namespace memvp
{
namespace
{

#if MEMVP_HAS_FINDER
std::atomic<nvinfer1::ILoggerFinder*> gFinder{nullptr};
#endif

// False where there is no logger.
template <typename Logger>
bool logTo(Logger* logger, char const* message)
{
    if (logger)
    {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message);
    }
    return logger != nullptr;
}

bool log(char const* message)
{
#if MEMVP_HAS_FINDER
    auto* const finder = gFinder.load();
    if (!finder)
    {
        return false;
    }
#if MEMVP_SERVES_11
    if (auto* const finder11 = asFinder11(finder))
    {
        return logTo(finder11->findLogger(), message);
    }
#endif
    return logTo(finder->findLogger(), message);
#else
    return logTo(getLogger ? getLogger() : nullptr, message);
#endif
}

} // namespace

void report(char const* message) noexcept
{
    // No std::string: one of the things to report is that there is no memory.
    char text[1024];
    std::snprintf(text, sizeof(text), "%s (memvp plugin, build %s): %s", kOPERATOR, buildId(), message);
    bool logged = false;
    try
    {
        logged = log(text);
    }
    catch (...)
    {
    }
    if (!logged)
    {
        std::fprintf(stderr, "%s\n", text);
    }
}

} // namespace memvp

#if MEMVP_HAS_FINDER
// Called by TensorRT when it loads the library.
MEMVP_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    memvp::gFinder = finder;
}
#endif
