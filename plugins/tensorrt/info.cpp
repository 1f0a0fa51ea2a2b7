// What the library is, readable without TensorRT. The build gives MEMVP_BUILD_ID, MEMVP_ARCHS and MEMVP_PTX.
#include "contract.h"
#include "export.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>

namespace memvp
{
namespace
{

// "80 90" -> ["80", "90"]
std::string list(std::string const& words)
{
    std::string text;
    for (size_t start = 0; start < words.size();)
    {
        auto const end = std::min(words.find(' ', start), words.size());
        text += (text.empty() ? "\"" : ", \"") + words.substr(start, end - start) + "\"";
        start = end + 1;
    }
    return "[" + text + "]";
}

std::string info()
{
    auto const version
        = [](int32_t major, int32_t minor) { return std::to_string(major) + "." + std::to_string(minor); };
    auto const headers = version(NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR) + "." + std::to_string(NV_TENSORRT_PATCH);
    auto const types = std::string("float32 float16") + (MEMVP_HAS_BFLOAT16 ? " bfloat16" : "");
    return "{\"operators\": " + list(kOPERATOR) + ", \"version\": \"" + kVERSION + "\", \"schema\": "
        + std::to_string(kSCHEMA) + ", \"types\": " + list(types) + ", \"archs\": " + list(MEMVP_ARCHS)
        + ", \"ptx\": " + list(MEMVP_PTX) + ", \"build_id\": \"" + MEMVP_BUILD_ID + "\", \"headers_version\": \""
        + headers + "\", \"cuda_version\": \"" + version(CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10) + "\"}";
}

} // namespace

char const* buildId() noexcept
{
    return MEMVP_BUILD_ID;
}

} // namespace memvp

// A JSON object; the text lives as long as the library.
MEMVP_EXPORT char const* memvp_plugin_info()
{
    static std::string const text = memvp::info();
    return text.c_str();
}
