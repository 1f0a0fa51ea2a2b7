// Files: how large one is, and its bytes in memory, mapped where the system can: an engine is as large as its weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace memvp
{

// Bytes of a file, nothing where there is none of that name. Throws EnvironmentLack where it cannot be looked at.
std::optional<std::uint64_t> sizeOf(std::filesystem::path const& path);

class FileView
{
public:
    // Throws EnvironmentLack where it cannot be read.
    explicit FileView(std::filesystem::path const& path);
    ~FileView();
    FileView(FileView const&) = delete;
    FileView& operator=(FileView const&) = delete;

    std::string_view bytes() const noexcept
    {
        return {mData, mSize};
    }

private:
    char const* mData = nullptr;
    std::size_t mSize = 0;
    // Where it is not mapped.
    std::vector<char> mRead;
};

} // namespace memvp
