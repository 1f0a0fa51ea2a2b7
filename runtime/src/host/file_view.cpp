#include "file_view.h"

#include "memvp/errors.h"

#if defined(__unix__)
#define MEMVP_MAPS_FILES 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define MEMVP_MAPS_FILES 0
#include <fstream>
#include <iterator>
#endif

namespace memvp
{

std::optional<std::uint64_t> sizeOf(std::filesystem::path const& path)
{
    std::error_code failed;
    bool const there = std::filesystem::is_regular_file(path, failed);
    auto const size = there ? std::filesystem::file_size(path, failed) : 0;
    // A link to itself leads to no file.
    if (failed && failed != std::errc::no_such_file_or_directory && failed != std::errc::not_a_directory
        && failed != std::errc::too_many_symbolic_link_levels)
    {
        throw EnvironmentLack(path.string() + " cannot be looked at: " + failed.message() + ".");
    }
    return there && !failed ? std::optional<std::uint64_t>(size) : std::nullopt;
}

#if MEMVP_MAPS_FILES

FileView::FileView(std::filesystem::path const& path)
{
    int const file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat state
    {
    };
    bool good = file >= 0 && ::fstat(file, &state) == 0;
    mSize = good ? static_cast<std::size_t>(state.st_size) : 0;
    if (good && mSize)
    {
        void* const mapped = ::mmap(nullptr, mSize, PROT_READ, MAP_PRIVATE, file, 0);
        good = mapped != MAP_FAILED;
        mData = good ? static_cast<char const*>(mapped) : nullptr;
    }
    if (file >= 0)
    {
        ::close(file);
    }
    if (!good)
    {
        throw EnvironmentLack(path.string() + " cannot be read.");
    }
}

FileView::~FileView()
{
    if (mData)
    {
        ::munmap(const_cast<char*>(mData), mSize);
    }
}

#else

FileView::FileView(std::filesystem::path const& path)
{
    std::ifstream file(path, std::ios::binary);
    mRead.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (!file)
    {
        throw EnvironmentLack(path.string() + " cannot be read.");
    }
    mData = mRead.data();
    mSize = mRead.size();
}

FileView::~FileView() = default;

#endif

} // namespace memvp
